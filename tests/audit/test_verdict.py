"""The verdict from figures: which level follows from which error, and what the sentence says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from splitveil.audit.policy import Thresholds
from splitveil.audit.record import HIDES, LEAKS, REDUCES, Attacker, Best, Bounded, Ceilings, Judge, Reference, Seen
from splitveil.audit.verdict import Facts, verdict
from splitveil.statistics.intervals import Interval

WHO: dict[str, Any] = {"suite": "tiny", "protocol": "inference_time", "images": 9000, "attacked": 1000, "seed": 0}
LINKED = {"bound": "linkage", "value": 0.97, "kind": "lower", "quantity": "success", "unit": "probability"}


def about(mean: float, width: float = 0.0) -> Interval:
    return Interval(mean, mean - width, mean + width)


def facts(mse: Interval, *, ratio: Interval | None = None, seen: float | None = 0.1, **more: Any) -> Facts:
    scores = {"psnr": about(20), "ssim": about(0.5), "reidentified": None if seen is None else about(seen, 0.02)}
    reference = None
    if ratio is not None:
        words = {"run": "runs/none", "weights": "", "accuracy": None, "accuracy_difference": None}
        reference = Reference(**words, mse=about(0.01), ratio=ratio, share_of_ceiling=None)
    return Facts(
        attacker=Attacker(**WHO, grants=["query", "weights"], attacked_digest="", observed=more.get("observed", 1)),
        best=Best(name="decoder", mse=mse, **scores),  # type: ignore[arg-type]
        seen=None if seen is None else Seen(attack="refine", share=about(seen, 0.02)),
        judge=None if seen is None else Judge(network="resnet20", epochs=3, images=9, recognized=about(0.9)),
        ceilings=Ceilings(mean_image=0.06, class_mean=0.05),
        classes=10,
        reference=reference,
        found=more.get("found"),
    )


@pytest.mark.parametrize(
    ("case", "level"),
    [
        (facts(about(0.012)), LEAKS),  # 24 % of the ceiling
        (facts(about(0.013, 0.001)), LEAKS),  # 26 %, but its interval reaches 24 %
        (facts(about(0.014)), REDUCES),
        (facts(about(0.042)), HIDES),
        (facts(about(0.042, 0.003)), REDUCES),  # the interval reaches 78 %
        (facts(about(0.042), seen=0.4), REDUCES),  # a classifier still recognizes it
        (facts(about(0.042), seen=None), REDUCES),  # nobody looked
        (facts(about(0.042), ratio=about(1.05, 0.02)), LEAKS),  # as much as the undefended model
        (facts(about(0.012), ratio=about(1.2, 0.05)), REDUCES),
        (facts(about(0.012), ratio=about(1.2, 0.11)), LEAKS),
    ],
)
def test_the_level_follows_from_intervals(case, level):
    assert verdict(case, Thresholds()).level == level


@pytest.mark.parametrize(
    ("seen", "why"), [(None, "no classifier was asked"), (0.1, "not shown to be better than guessing")]
)
def test_a_verdict_without_a_classifier_that_sees_says_why(seen, why):
    case = facts(about(0.042), seen=seen)
    if case.judge is not None:
        case = replace(case, judge=replace(case.judge, recognized=about(0.1)))
    found = verdict(case, Thresholds())
    assert found.level == REDUCES
    assert why in found.because[-1]


def test_a_classifier_that_may_be_guessing_hides_nothing():
    """It may be right in 16 % of few originals by luck; below the 10 % of guessing in the answers, all was hidden."""
    case = facts(about(0.042), seen=0.05)
    assert case.judge is not None
    for recognized, level in ((about(0.16, 0.08), REDUCES), (about(0.26, 0.08), HIDES)):
        assert verdict(replace(case, judge=replace(case.judge, recognized=recognized)), Thresholds()).level == level


def test_a_reference_with_defenses_is_named_as_one():
    """The level speaks of an undefended model, which such a reference is not."""
    for defense, named in ((None, False), ([], False), (["gaussian:0.1", "cem:16"], True)):
        case = facts(about(0.042), ratio=about(1.05, 0.02))
        assert case.reference is not None
        case = replace(case, reference=replace(case.reference, defense=defense))
        said = " ".join(verdict(case, Thresholds()).because)
        assert ("runs/none has defenses itself (gaussian:0.1, cem:16)" in said) == named


def test_thresholds_move_the_level():
    case = facts(about(0.014))
    assert verdict(case, Thresholds(leaks_share=0.3)).level == LEAKS
    assert verdict(case, Thresholds(hides_share=0.2, leaks_share=0.1)).level == HIDES
    assert verdict(case, Thresholds()).thresholds == Thresholds().model_dump()


def test_the_sentence_is_the_one_that_a_reader_needs():
    linked = Bounded(
        **LINKED, about="the right photo among 1,000, chance 0.1 %", assumptions=[], images=9, interval=None
    )  # type: ignore[arg-type]
    said = verdict(facts(about(0.014), seen=0.62, found=linked), Thresholds()).sentence
    assert said == (
        "An attacker who has 9,000 images of their own and the encoder's weights recovers pictures of which an "
        "independent classifier still recognizes 62 % (originals 90 %, guessing 10 %), and finds the right photo among "
        "1,000 in 97 % of cases."
    )


def test_no_verdict_says_safe():
    for level in (LEAKS, REDUCES, HIDES):
        assert "safe" not in level
        assert "secure" not in level
