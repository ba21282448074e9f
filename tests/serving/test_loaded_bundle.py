"""What may be asked of a model, whatever door it comes through: finite numbers of the right type."""

from __future__ import annotations

import numpy as np
import pytest

from splitveil.deploy.bundle import Bundle
from splitveil.serving.limits import Limits
from splitveil.serving.refusals import Kind, Refusal
from splitveil.serving.served import Served, Tensor


def floats(bundle: Bundle, kind: str) -> Served:
    wire = {**bundle.wire["wire"], "dtype": kind}
    return Served.of(Bundle({**bundle.wire, "wire": wire}, {}), Limits())  # type: ignore[typeddict-item]


@pytest.mark.parametrize("kind", ["FP32", "FP16"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_wire_that_is_not_finite_is_refused(bundle, kind, bad):
    offered = floats(bundle, kind)
    values = np.array([[1, 2, 3, bad]], offered.dtype)
    for content in (values.tobytes(), values.tolist(), [1, 2, 3, 1e999]):
        with pytest.raises(Refusal) as refused:
            offered.wire([Tensor("wire", kind, [1, 4], content)])
        assert refused.value.kind is Kind.malformed


def test_numbers_that_float16_cannot_hold_are_refused(bundle):
    with pytest.raises(Refusal, match="finite"):
        floats(bundle, "FP16").wire([Tensor("wire", "FP16", [1, 4], [1, 2, 3, 70000])])


def test_raw_floats_may_begin_anywhere(bundle):
    offered, values = floats(bundle, "FP32"), np.arange(4, dtype=np.float32)[None]
    found = offered.wire([Tensor("wire", "FP32", [1, 4], memoryview(b"x" + values.tobytes())[1:])])
    assert found.flags.aligned
    np.testing.assert_array_equal(found, values)
