"""Results of attacks from Python: a result of one, a report of several on the same wires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .data import to_float
from .defenses.codec import codec_of
from .errors import UserError
from .evaluation import suites
from .evaluation.evaluate import Outcome
from .evaluation.flags import together
from .evaluation.floors import CLASS_MEAN
from .evaluation.scores import interval
from .pictures import inline_figure, spread
from .statistics.intervals import Interval, paired_ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .model import SplitModel


SHOWN = 8
"""Number of images in a picture."""
TOO_FEW = "too few images in learn_from to tell the best attacker"


@dataclass(frozen=True)
class Result:
    """The result of an attack.

    Attributes:
        name: name of the attack.
        outcome: the whole result; the properties below are its essence.
        model: the attacked model, as it was then; None: the result was read from a folder without the network.
    """

    name: str
    outcome: Outcome
    model: SplitModel | None = field(default=None, compare=False)

    @property
    def mse(self) -> float:
        """Return the mean squared error of the reconstructions, pixels in [0, 1]; higher is more private."""
        return self._mean("mse")

    @property
    def ssim(self) -> float:
        """Return the structural similarity of the reconstructions; lower is more private."""
        return self._mean("ssim")

    @property
    def psnr(self) -> float:
        """Return the peak signal-to-noise ratio in decibels, at most 100 for each image; lower is more private."""
        return self._mean("psnr")

    @property
    def baseline_mse(self) -> float:
        """Return the error of answering the mean of the attacker's images, which needs no wire."""
        return self.outcome.summary["baseline_mse"]

    @property
    def class_mean_mse(self) -> float | None:
        """Return the error of answering the mean of the attacker's images of the true class.

        It is what the most private wire leaves that still tells the class; None: an earlier version made the attack.
        """
        return self.outcome.summary.get(CLASS_MEAN)

    @property
    def flags(self) -> list[str]:
        """Return reasons not to trust the attack's failure or success; an empty list means that none was found."""
        return self.outcome.summary["flags"]

    @property
    def images(self) -> Tensor:
        """Return the reconstructions, float (N, C, H, W) in [0, 1], in the order of ``originals``."""
        return self._pictures(self.outcome.reconstructions)

    @property
    def originals(self) -> Tensor:
        """Return the attacked images, float (N, C, H, W) in [0, 1]."""
        return self._pictures(self.outcome.originals)

    def interval(self, metric: str = "mse") -> Interval:
        """Return the 95 % interval of a metric's mean over the attacked images (bootstrap).

        Args:
            metric: "mse", "psnr", "ssim" or another one that was scored.
        """
        if metric not in self.outcome.values:
            raise UserError(f"there is no metric '{metric}'; expected one of {', '.join(self.outcome.values)}")
        return interval(self.outcome.values[metric], metric)

    def ratio(self, other: Result, metric: str = "mse") -> Interval:
        """Return by what factor a metric is higher here than in another attack on the same images, with 95 %.

        The images are resampled in pairs, so that what they have in common cancels.

        Args:
            other: result of an attack on the same images, on this model or on another one.
            metric: as of `interval`.

        Raises:
            UserError: the other attack was made on other images, or the metric is not there.
        """
        for result in (self, other):
            if metric not in result.outcome.values:
                raise UserError(f"there is no metric '{metric}'; expected one of {', '.join(result.outcome.values)}")
        if self.outcome.summary["images_digest"] != other.outcome.summary["images_digest"]:
            raise UserError("the two attacks were made on other images; give both the same in invert=")
        return paired_ratio(self.outcome.values[metric], other.outcome.values[metric])

    def plot(self, count: int | Sequence[int] = SHOWN) -> Figure:
        """Draw attacked images above their reconstructions; a notebook shows the figure.

        Args:
            count: number of images, evenly spread over all; or which ones, by their place.
        """
        figure = _drawn([("", self.originals), ("", self.images)], count)
        figure.suptitle(f"images and what {self.name} makes of their wire: MSE {self.mse:.4f}, SSIM {self.ssim:.2f}")
        return figure

    def _pictures(self, images: Tensor) -> Tensor:
        if not len(images):
            raise UserError(f"{self.name}: its folder holds not all images as arrays; look at its reconstructions.png")
        return to_float(images)

    def _mean(self, metric: str) -> float:
        return float(self.outcome.values[metric].mean())

    def __repr__(self) -> str:
        flags = "".join(f"\n  flag: {flag}" for flag in self.flags)
        shown = f"mse={self.mse:.4f}, ssim={self.ssim:.3f}, baseline_mse={self.baseline_mse:.4f}"
        if self.class_mean_mse is not None:
            shown += f", class_mean_mse={self.class_mean_mse:.4f}"
        return f"Result({self.name}: {shown}, {len(self.outcome.values['mse'])} images){flags}"


@dataclass(frozen=True)
class Report:
    """The results of several attacks on the same wires.

    Attributes:
        suite: name of the suite.
        results: results by attack.
        skipped: attacks that could not be made, with the reason.
        doubts: flags that no attack has alone, such as one with the weights that is beaten by one without.
        model: as of `Result`.
    """

    suite: str
    results: dict[str, Result]
    skipped: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    model: SplitModel | None = field(default=None, compare=False)

    @property
    def best_attacker(self) -> str:
        """Return the attack, or the choice per image, that is best on the attacker's held-out images."""
        return self._best()["attack"]

    @property
    def mse(self) -> float:
        """Return the mean squared error of the best attacker who does not know the truth."""
        self._best()  # or say that nobody can tell
        return float(suites.best_values(self._values(), self._held(), "mse").mean())

    @property
    def worst_case_mse(self) -> float:
        """Return the mean over the images of the lowest error of any attack, which needs the images to be known."""
        return float(suites.worst_case({name: value["mse"] for name, value in self._values().items()}).mean())

    @property
    def class_mean_mse(self) -> float | None:
        """Return the error of answering the mean image of the true class, as of `Result`."""
        return next(iter(self.results.values())).class_mean_mse

    @property
    def flags(self) -> list[str]:
        """Return the flags of all attacks, and the doubts."""
        return together({name: result.flags for name, result in self.results.items()}) + self.doubts

    def plot(self, count: int | Sequence[int] = SHOWN) -> Figure:
        """Draw attacked images, and below them what each attack makes of their wires.

        Args:
            count: as of `Result.plot`.
        """
        results = list(self.results.values())
        rows = [("original", results[0].originals)]
        rows += [(f"{name}\n{result.mse:.4f}", result.images) for name, result in self.results.items()]
        return _drawn(rows, count)

    def _values(self) -> dict[str, dict[str, Tensor]]:
        return {name: result.outcome.values for name, result in self.results.items()}

    def _held(self) -> dict[str, dict[str, Tensor]]:
        return {name: result.outcome.held_out for name, result in self.results.items()}

    def _best(self) -> dict[str, Any]:
        found = suites.best_of(self._values(), self._held())
        if found is None:
            raise UserError(f"there are {TOO_FEW}; give 20 or more")
        return found

    def __repr__(self) -> str:
        rows = [f"  {result!r}" for result in self.results.values()]
        rows += [f"  {name}: not made, {why}" for name, why in self.skipped.items()]
        rows += [f"  flag: {doubt}" for doubt in self.doubts]
        known = suites.best_of(self._values(), self._held())  # a report of few images is shown, too
        head = f"mse={self.mse:.4f} by {known['attack']}" if known else TOO_FEW
        codec = None if self.model is None else codec_of(self.model.defense)
        sent = "" if codec is None else f", what the codec {codec.name} sends"
        return "\n".join([f"Report({self.suite}{sent}: {head})", *rows])


def _drawn(rows: list[tuple[str, Tensor]], count: int | Sequence[int]) -> Figure:
    """Return a picture of some images of each row, with the row's name on its left."""
    chosen = spread(len(rows[0][1]), max(1, count)).tolist() if isinstance(count, int) else list(count)
    figure = inline_figure(figsize=(1.2 * len(chosen), 1.2 * len(rows) + 0.3))
    axes = figure.subplots(len(rows), len(chosen), squeeze=False)
    for row, (name, shown) in enumerate(rows):
        for column, place in enumerate(chosen):
            picture = shown[place].expand(3, -1, -1)  # matplotlib shows gray images in false colors
            axes[row, column].imshow(picture.permute(1, 2, 0).numpy())
            axes[row, column].set_axis_off()
        axes[row, 0].text(-0.1, 0.5, name, transform=axes[row, 0].transAxes, ha="right", va="center")
    return figure
