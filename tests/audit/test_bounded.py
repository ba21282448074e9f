"""Bounds of an audit that are kept, and read back."""

from __future__ import annotations

from splitveil import config
from splitveil.audit import bounded
from splitveil.registry import Registry
from splitveil.runs import build_model, load_images


def test_bounds_of_other_code_are_computed_again(tmp_path, monkeypatch):
    """After a repair of a bound the number that it had given before stayed on the card."""
    settings = config.parse({"data": "digits", "arch": "resnet20_sgm", "cut": 2, "bottleneck": 2, "test_size": 60})
    images = load_images(settings.resolve())
    model = build_model(settings.resolve(), images)
    made: list[str] = []
    real = bounded._made
    monkeypatch.setattr(bounded, "_made", lambda name, *rest: made.append(name) or real(name, *rest))

    def estimates() -> None:
        named = bounded.specs(["entropy", "pairwise"])
        bounded.estimates(model, images.test, named, tmp_path, {"model": "one"}, observed=1)

    estimates()
    estimates()
    assert made == ["entropy", "pairwise"]
    monkeypatch.setattr(Registry("bounds").get("pairwise"), "revision", 99)
    estimates()
    assert made[2:] == ["pairwise"]
    monkeypatch.setattr(bounded, "SHARED", 99)
    estimates()
    assert made[3:] == ["entropy", "pairwise"]


def test_the_default_is_every_bound():
    named = bounded.specs(None)
    assert {"mixture", "channel", "pairwise", "linkage", "linkage:top=10", "pac", "fisher", "dp"} <= set(named)
