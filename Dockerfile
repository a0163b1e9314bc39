# make image                                    or: docker build --tag nimbus-fusion . (ENGINE=podman, ENGINE=buildah)
# docker run --rm -it --init nimbus-fusion      the whole pipeline on the embedded data
# docker compose up ui                          see compose.yaml
#
# The default runs on processors. For a graphics card: make image ARGS="--build-arg EXTRA=cuda", then
# docker run --gpus all ... On x86-64 the registry's build of torch holds CUDA either way; an index of CPU builds in
# TORCH_INDEX makes the image some gigabytes smaller. What only tests and checks need is left out; EXTRA=dev adds it.
ARG PYTHON=3.11.14
FROM python:${PYTHON}-slim-bookworm
ARG TORCH_INDEX=""
ARG EXTRA=""

# No versions: Debian removes one from its archive when the next comes, so that a pin breaks the build.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*' \
    && git config --system user.name quant \
    && git config --system user.email quant@localhost \
    && useradd --create-home --uid 10001 quant \
    && mkdir /app /opt/venv \
    && chown quant /app /opt/venv

USER 10001
WORKDIR /app
# READY is empty because the environment is part of the image: make installs nothing here.
ENV PATH=/opt/venv/bin:$PATH VENV=/opt/venv READY="" PYTHONUNBUFFERED=1 \
    DVC_NO_ANALYTICS=true MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 ORT_DISABLE_TELEMETRY=1

# The lock alone decides these layers, so that a change of code does not install everything again.
COPY --chown=quant requirements.txt pyproject.toml Makefile ./
RUN export PIP_NO_CACHE_DIR=1 ${TORCH_INDEX:+PIP_EXTRA_INDEX_URL="$TORCH_INDEX"} \
    && python -m venv /opt/venv \
    && make runtime \
    && if [ -n "$EXTRA" ]; then make extra NAME="$EXTRA"; fi

COPY --chown=quant . .

HEALTHCHECK --interval=1m --timeout=30s --start-period=20s \
    CMD ["python", "-m", "fusion_alpha.config", "--check"]
CMD ["make", "repro"]
