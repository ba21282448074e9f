"""Text files for servers that others run: a Triton model repository and a KServe manifest."""

from __future__ import annotations

from .bundle import Wire

TRITON = {"UINT8": "TYPE_UINT8", "FP16": "TYPE_FP16", "FP32": "TYPE_FP32"}
MOST_BATCH = 256
"""Triton refuses larger requests: as many images as a client sends at once."""


def triton_config(wire: Wire) -> str:
    """Return config.pbtxt of Triton's model repository for the cloud's graph.

    Args:
        wire: content of wire.json.
    """
    coded = wire["wire"]
    outputs = ",\n".join(
        f'  {{ name: "{one["name"]}" data_type: {TRITON[one["dtype"]]} dims: {one["shape"]} }}'
        for one in wire["outputs"]
    )
    return f"""\
name: "{wire["name"]}-{wire["pair"]}"
platform: "onnxruntime_onnx"
max_batch_size: {MOST_BATCH}
input [
  {{ name: "wire" data_type: {TRITON[coded["dtype"]]} dims: {coded["shape"]} }}
]
output [
{outputs}
]
dynamic_batching {{ }}
"""


def kserve_manifest(wire: Wire) -> str:
    """Return an InferenceService that serves the folder ``triton`` by KServe's Triton runtime.

    Args:
        wire: content of wire.json.
    """
    return f"""\
# Copy the folder triton/ to your storage, write its address into storageUri, then: kubectl apply -f kserve.yaml
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {_label(wire["name"])}-{wire["pair"]}
spec:
  predictor:
    model:
      modelFormat:
        name: triton
      protocolVersion: v2
      storageUri: s3://YOUR-BUCKET/triton
"""


def _label(name: str) -> str:
    """Return a name as Kubernetes takes it: no dots, no underscores, at most 50 letters.

    >>> _label("cifar_10.v2")
    'cifar-10-v2'
    """
    return name[:50].replace("_", "-").replace(".", "-").strip("-")
