"""The page that ``splitveil demo`` opens: noise alone and noise with CEM, attacked by the same attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UserError
from ..pictures import checked, data_uri
from ..statistics.intervals import Interval
from . import charts

ABSENT = "–"


@dataclass(frozen=True)
class DemoModel:
    """What was measured on one model.

    Attributes:
        attacker: who attacks best, in words.
        accuracy: share of correct test predictions, in [0, 1].
        mse, ssim, psnr: reconstruction error of the best attacker; MSE in squared pixel range, PSNR in dB.
        leakage: estimate of I(x; z_wire) after every training epoch, in nats per image; may be empty.
        accuracy_curve: accuracy after every training epoch, in [0, 1].
        attack_curve: MSE after every epoch of the attack that is trained.
        seconds: training and attack together.
        reconstructions: uint8 (K, 3, H, W), in the order of ``DemoResult.originals``.
    """

    name: str
    attacker: str
    accuracy: Interval
    mse: Interval
    ssim: Interval
    psnr: Interval
    leakage: Sequence[float]
    accuracy_curve: Sequence[float]
    attack_curve: Sequence[float]
    seconds: float
    reconstructions: Any


@dataclass(frozen=True)
class DemoResult:
    """Everything on the page.

    Attributes:
        models: the reference (noise alone), then the model with CEM.
        originals: uint8 (K, 3, H, W), chosen by index.
        baseline_mse: error of always answering the mean training image.
        settings: shown as they are: data, epochs, seed, versions, machine, ...
        command: the command that makes this page again.
        mse_difference: paired over the same images, second model − first model.
        accuracy_difference: the same for accuracy, in [−1, 1], or None where it was not measured.
    """

    models: Sequence[DemoModel]
    originals: Any
    baseline_mse: float
    mse_difference: Interval
    settings: dict[str, str] = field(default_factory=dict)
    command: str = "splitveil demo"
    accuracy_difference: Interval | None = None


def demo_page(result: DemoResult) -> str:
    """The page as one self-contained HTML text: no script, no address outside itself.

    Raises:
        UserError: not two models, or pictures that do not fit each other.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    if len(result.models) != 2:
        raise UserError(f"the demo page got {len(result.models)} models; expected two: the reference, then CEM")
    environment = Environment(
        loader=PackageLoader("splitveil.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("demo.html.j2").render(
        result=result,
        headline=headline(result),
        summary=summary(result),
        gauges=_gauges(result),
        table=_table(result),
        pictures=_pictures(result),
        curves=_curves(result),
        epochs=_epoch_rows(result),
    )


def headline(result: DemoResult) -> str:
    """What the measurement says in a few words: of two trainings, and only where its interval excludes zero."""
    change, cost = _sign(result.mse_difference), _sign(result.accuracy_difference)
    attack = {
        1: "In these two trainings, the attacker sees less with CEM",
        0: "These two trainings show no difference to the attack",
        -1: "In these two trainings, CEM made the attack easier",
    }[change]
    if change == 1:
        return attack + {-1: ", at a cost in accuracy", 0: "", 1: ", and accuracy is higher"}[cost]
    return attack + {-1: ", and accuracy is lower", 0: "", 1: ", but accuracy is higher"}[cost]


def summary(result: DemoResult) -> str:
    """One sentence with the measured numbers, then what their intervals allow to conclude."""
    noise, cem = result.models
    verb = {1: "rises", 0: "goes", -1: "falls"}[_sign(result.mse_difference)]
    text = (
        f"At {percent(cem.accuracy)} against {percent(noise.accuracy)} accuracy, the best attacker’s mean squared "
        f"error {verb} from {noise.mse} to {cem.mse}; guessing the mean image would give "
        f"{result.baseline_mse:.4g}. "
        f"On the same images the difference is {_signed(result.mse_difference)}"
    )
    text += "." if _sign(result.mse_difference) else ": its interval holds zero, so this run does not show an effect."
    if result.accuracy_difference is not None:
        text += f" Accuracy changes by {_points(result.accuracy_difference)} percentage points"
        text += "." if _sign(result.accuracy_difference) else "; that it is kept is not shown."
    return (
        f"{text} The intervals cover the choice of images: another seed may give another difference, and a defense is "
        "judged by three or more of each, at equal accuracy (splitveil bench, splitveil compare)."
    )


def percent(interval: Interval) -> str:
    """Accuracy as people read it.

    >>> percent(Interval(0.964, 0.942, 0.978))
    '96.4 % [94.2, 97.8]'
    """
    return f"{100 * interval.mean:.1f} % [{100 * interval.lo:.1f}, {100 * interval.hi:.1f}]"


def _sign(difference: Interval | None) -> int:
    if difference is None or difference.lo <= 0 <= difference.hi:
        return 0
    return 1 if difference.lo > 0 else -1


def _signed(interval: Interval) -> str:
    text = str(interval).replace("-", "−")
    return text if interval.mean < 0 else f"+{text}"


def _points(interval: Interval) -> str:
    return _signed(Interval(100 * interval.mean, 100 * interval.lo, 100 * interval.hi))


def _gauges(result: DemoResult) -> list[dict[str, Any]]:
    errors, accuracies = [m.mse for m in result.models], [m.accuracy for m in result.models]
    ceiling = ("ceiling: mean image", result.baseline_mse)
    return [
        {
            "title": "Best attacker’s error",
            "note": "mean squared error; further right is more private",
            "svg": charts.gauge("Attack error", errors, reference=ceiling, start=0.0),
        },
        {
            "title": "Accuracy",
            "note": "of the defended network; further right is better",
            "svg": charts.gauge("Accuracy", accuracies, show=_axis_percent),
        },
    ]


def _table(result: DemoResult) -> list[dict[str, Any]]:
    """Rows of (measure, which way is good, a cell per model, difference); a cell is (value, interval)."""
    models, accuracy = result.models, result.accuracy_difference

    def split(text: str) -> tuple[str, str]:
        value, _, interval = text.partition(" [")
        return value, f"[{interval}" if interval else ""

    def row(measure: str, good: str, cells: list[str], difference: str = ABSENT) -> dict[str, Any]:
        return {
            "measure": measure,
            "good": good,
            "cells": [split(cell) for cell in cells],
            "difference": split(difference),
        }

    leakage = [f"{m.leakage[-1]:.4g}" if m.leakage else ABSENT for m in models]
    return [
        row(
            "Accuracy",
            "higher is better",
            [percent(m.accuracy) for m in models],
            f"{_points(accuracy)}" if accuracy else ABSENT,
        ),
        row("Best attacker", "by the attacker’s own held-out images", [m.attacker for m in models]),
        row(
            "Attack MSE",
            "higher is more private",
            [str(m.mse) for m in models],
            _signed(result.mse_difference),
        ),
        row(
            "MSE as a share of the ceiling",
            f"100 % is the mean image, MSE {result.baseline_mse:.4g}",
            [f"{100 * m.mse.mean / result.baseline_mse:.0f} %" if result.baseline_mse else ABSENT for m in models],
        ),
        row("Attack SSIM", "lower is more private", [str(m.ssim) for m in models]),
        row("Attack PSNR", "dB; lower is more private", [str(m.psnr) for m in models]),
        row("Leakage estimate", "nats; lower is more private", leakage),
        row("Time", "seconds, training and attack", [f"{m.seconds:.1f}" for m in models]),
    ]


def _pictures(result: DemoResult) -> list[dict[str, Any]]:
    originals = checked(result.originals)
    rows = [{"name": "Original", "tiles": [(data_uri(image), "") for image in originals]}]
    for model in result.models:
        images = checked(model.reconstructions)
        if images.shape != originals.shape:
            raise UserError(
                f"the demo page got {images.shape} reconstructions of {originals.shape} originals; "
                "expected one reconstruction per original"
            )
        errors = np.square((images.astype(float) - originals) / 255).mean(axis=(1, 2, 3))
        tiles = [(data_uri(image), f"{error:.3f}") for image, error in zip(images, errors, strict=True)]
        rows.append({"name": model.name, "tiles": tiles})
    return rows


def _curves(result: DemoResult) -> list[dict[str, Any]]:
    models, ceiling = result.models, ("mean image", result.baseline_mse)
    drawn = [
        (
            "Accuracy",
            "per training epoch",
            charts.line_chart("Accuracy", [(m.name, m.accuracy_curve) for m in models], show=_axis_percent),
        ),
        (
            "Leakage estimate",
            "nats, per training epoch",
            charts.line_chart("Leakage estimate in nats", [(m.name, m.leakage) for m in models]),
        ),
        (
            "Attacker’s error",
            "MSE, per epoch of the attack",
            charts.line_chart(
                "Attack MSE", [(m.name, m.attack_curve) for m in models], "attack epoch", reference=ceiling
            ),
        ),
    ]
    return [{"title": title, "note": note, "svg": svg} for title, note, svg in drawn if svg]


def _epoch_rows(result: DemoResult) -> list[tuple[int, list[str]]]:
    """The curves as numbers: per epoch the accuracies, leakages and attack errors of both models."""
    columns = [
        (list(curve), show)
        for attribute, show in (
            ("accuracy_curve", lambda value: f"{100 * value:.1f} %"),
            ("leakage", "{:.4g}".format),
            ("attack_curve", "{:.4g}".format),
        )
        for curve in (getattr(model, attribute) for model in result.models)
    ]
    last = max(len(curve) for curve, _ in columns)
    return [
        (epoch + 1, [show(curve[epoch]) if epoch < len(curve) else "" for curve, show in columns])
        for epoch in range(last)
    ]


def _axis_percent(value: float) -> str:
    return f"{100 * value:.3g} %"
