"""What a hardening leaves: the model, what was tried, and a picture of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..model import SplitModel
from ..pictures import inline_figure
from ..storage.files import atomic_write, expanded
from .search import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Hardened:
    """A hardened model and the search that led to it.

    Attributes:
        model: with `Waterfill` on its wire and a tail of its own, in evaluation mode.
        search: what was tried; its ``chosen`` step is the model.
        flags: why its figures say nothing, each as one sentence.
    """

    model: SplitModel
    search: Search
    flags: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        before, chosen = self.search.before, self.search.chosen
        assert chosen is not None
        text = (
            f"accuracy on the validation images {100 * before:.1f} -> {100 * chosen.accuracy:.1f} %, MSE of a linear "
            f"attacker {chosen.linear_error:.4f} (mean image {self.search.mean_image:.4f}), "
            f"{chosen.sent} numbers on the wire"
        )
        return "\n".join([text, *(f"flag: {flag}" for flag in self.flags)])

    def plot(self) -> Figure:
        """Draw accuracy against the linear attacker's error; a notebook shows the figure."""
        return plotted(self.search)

    def picture(self, path: str | Path) -> Path:
        """Draw accuracy against the linear attacker's error, as a PNG, and return its path.

        Args:
            path: file that is made or replaced.
        """
        path = expanded(path)
        draw(self.search, path)
        return path


def draw(search: Search, path: Path) -> None:
    """Draw what was tried, and where the choice lies.

    Args:
        search: finished.
        path: PNG file that is made.
    """
    with atomic_write(path) as temporary:
        plotted(search).savefig(temporary, format="png")


def plotted(search: Search) -> Figure:
    """Return the picture of what was tried, and where the choice lies.

    Args:
        search: finished.
    """
    figure = inline_figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    tried = sorted((step for step in search.steps if not step.whole), key=lambda step: step.linear_error)
    axes.plot(
        [100 * step.accuracy for step in tried], [step.linear_error for step in tried], "o-", color="#4c72b0",
        label="tried, tail trained briefly",
    )  # fmt: skip
    chosen = search.chosen
    assert chosen is not None
    axes.plot(100 * chosen.accuracy, chosen.linear_error, "*", markersize=15, color="#c44e52", label="chosen")
    axes.axvline(100 * search.before, color="gray", linestyle="--", linewidth=1, label="accuracy before")
    axes.axhline(search.mean_image, color="gray", linestyle=":", linewidth=1, label="error of the mean image")
    axes.set_xlabel("accuracy on the validation images, %")
    axes.set_ylabel("error of a linear attacker (MSE)")
    axes.set_ylim(0, search.mean_image * 1.05)
    axes.legend(fontsize=8)
    return figure
