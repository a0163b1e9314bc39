# docker build -t nimbus-fusion .
# docker run --rm -it -v nimbus:/app/.dvc/cache nimbus-fusion make repro VENV=/opt/venv
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 quant \
    && mkdir /app /opt/venv && chown quant /app /opt/venv

USER quant
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 DVC_NO_ANALYTICS=true MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1

# The lock alone decides this layer, so that a change of code does not install everything again.
COPY --chown=quant requirements.txt ./
RUN python -m venv /opt/venv && pip install --no-cache-dir -r requirements.txt

COPY --chown=quant . .
RUN touch /opt/venv/.ready && git config --global --add safe.directory /app \
    && git config --global user.name quant && git config --global user.email quant@localhost

CMD ["make", "repro", "VENV=/opt/venv"]
