"""Fusion Alpha. Nothing that is imported from here on calls home: libraries read these variables when they load."""

import os

# A library that tries would also stall where there is no network.
QUIET = {
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime's builds from 1.29 on: it writes a device id when it is imported
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
