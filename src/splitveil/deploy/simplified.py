"""Graphs of ONNX with fewer operators, in which every number stays what it was."""

from __future__ import annotations

from typing import Any

ROUNDS = 2
"""How often constants are folded: what the first time makes constant is folded the second time."""


def simplify(model: Any) -> None:
    """Fold constants, and batch norms into the layers before them, in place.

    The exporter's own optimizer goes further: it takes every number up to 1e-8 for 0 and 1.000009 for 1. So the small
    number that guards a division or a logarithm would disappear, and a feature of zeros would become NaN on the device.

    Args:
        model: as the exporter leaves it without its optimizer (`onnx_ir.Model`).
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules import common as rules

    optimizer.inline(model)
    for _ in range(ROUNDS):
        optimizer.fold_constants(model)
        optimizer.remove_unused_nodes(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    norms = (
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
    )
    rewrite(model, norms)
