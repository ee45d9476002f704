# The image of every step of the pipeline and of Beam's remote workers: docs/image.md.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Debian's own python3 comes without venv and pip
RUN python3 -c "import ensurepip" 2>/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv; }
RUN python3 -m venv /opt/latentfaces
WORKDIR /build
COPY requirements.lock .
# tensorflow-cpu, or tensorflow[and-cuda], which brings CUDA along: of the same version
ARG TENSORFLOW=tensorflow-cpu
RUN sed "s/^tensorflow==/${TENSORFLOW}==/" requirements.lock >requirements.txt \
    && /opt/latentfaces/bin/pip install --no-cache-dir -r requirements.txt
COPY . .
RUN /opt/latentfaces/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE_IMAGE}
COPY --from=build /opt/latentfaces /opt/latentfaces
# The root file system may be read-only: what is written goes to /tmp, and the bytecode was made by pip
ENV PATH=/opt/latentfaces/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 1000:1000
# No entry point: Kubeflow and Beam start what they need with `python3` from the PATH
CMD ["latentfaces", "--help"]
