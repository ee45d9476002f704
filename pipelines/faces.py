"""The pipeline: faces in, two trained generators and their pictures out."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components import IMAGE
from components.check.component import check
from components.evaluate.component import evaluate
from components.preprocess.component import preprocess
from components.train.component import train


def faces_pipeline(image: str = IMAGE) -> BaseComponent:
    """Builds the pipeline.

    Args:
        image: container image of every step, built from the project's Dockerfile.

    Returns:
        The pipeline, to be compiled, or called to run locally after `kfp.local.init`.
    """

    @dsl.pipeline(name="latentfaces", description=__doc__)
    def latentfaces(
        source: str,
        root: str,
        destination: str,
        image_size: int = 64,
        channels: int = 3,
        max_rejected: float = 0.01,
        beam_options: list = [],  # noqa: B006 - the compiler reads the default, nothing changes it
        vae_preset: str = "faces",
        vae_epochs: int = 0,
        vae_batch_size: int = 0,
        gan_preset: str = "book",
        gan_epochs: int = 0,
        gan_batch_size: int = 0,
        workers: int = 1,
        gpus_per_worker: int = 0,
        seed: int = 0,
    ) -> str:
        """Trains a VAE and a DCGAN on a folder of faces and renders what they learned.

        Args:
            source: CelebA as distributed, a folder of images, or a zip of either; local or gs://.
            root: Folder for the data set and the models; a bucket on a cluster.
            destination: Folder for the evaluation.
            image_size: Height and width in pixels.
            channels: 1 for grey, 3 for RGB.
            max_rejected: Share of the inputs that may be refused.
            beam_options: Beam's own options, such as --runner=DataflowRunner.
            vae_preset: book, small or faces.
            vae_epochs: 0 for the preset's.
            vae_batch_size: Global batch size; 0 for the preset's.
            gan_preset: book or small.
            gan_epochs: 0 for the preset's.
            gan_batch_size: Global batch size; 0 for the preset's.
            workers: Worker processes of each training step.
            gpus_per_worker: GPUs of each worker.
            seed: Of all random numbers.

        Returns:
            Where the report is.
        """
        checked = check(
            source=source,
            root=root,
            destination=destination,
            image_size=image_size,
            vae_preset=vae_preset,
            gan_preset=gan_preset,
            vae_batch_size=vae_batch_size,
            gan_batch_size=gan_batch_size,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
        )
        checked.set_caching_options(False)  # what was there once need not be there now
        preprocessed = preprocess(
            source=source,
            location=f"{root}/dataset",
            image_size=image_size,
            channels=channels,
            max_rejected=max_rejected,
            beam_options=beam_options,
        ).after(checked)
        preprocessed.set_caching_options(False)  # new images may have come to the same source

        models = {}
        for kind, preset, epochs, batch_size in (
            ("vae", vae_preset, vae_epochs, vae_batch_size),
            ("gan", gan_preset, gan_epochs, gan_batch_size),
        ):
            task = train(
                kind=kind,
                dataset=preprocessed.outputs["dataset"],
                location=f"{root}/{kind}",
                preset=preset,
                epochs=epochs,
                batch_size=batch_size,
                workers=workers,
                gpus_per_worker=gpus_per_worker,
                seed=seed,
            )
            task.set_display_name(f"train {kind.upper()}")
            task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(checked.output)
            task.set_retry(2)  # a pod that is lost goes on from its last checkpoint
            models[kind] = task

        evaluated = evaluate(
            dataset=preprocessed.outputs["dataset"],
            vae=models["vae"].outputs["model"],
            gan=models["gan"].outputs["model"],
            destination=destination,
            seed=seed,
        )
        for task in (preprocessed, *models.values(), evaluated):
            task.set_cpu_request("2").set_memory_request("4G")
        for task in (checked, preprocessed, *models.values(), evaluated):
            task.set_container_image(image)
        return evaluated.outputs["Output"]

    return latentfaces
