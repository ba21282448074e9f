"""Tables as CSV and as LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..statistics.intervals import Interval
from ..storage.files import write_text
from .cem_effect import Gain
from .groups import Arena, Setup, interval, strongest
from .records import METRICS, attacker

LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"${character}$" for character in "<>|"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "σ": r"$\sigma$",
    "λ": r"$\lambda$",
    "→": r"$\to$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "⁻": r"$^{-}$",
    "⁴": r"$^{4}$",
    "−": "$-$",
    "–": "--",
}


@dataclass(frozen=True)
class Table:
    """A table under ``tables/STEM.csv`` and ``.tex``.

    Attributes:
        rows: numbers for CSV, as they were computed.
        shown: the same for reading: columns of text, with intervals; what LaTeX gets.
    """

    stem: str
    caption: str
    rows: Sequence[Mapping[str, Any]]
    shown: Sequence[Mapping[str, str]]

    def csv(self) -> str:
        """One line for each row; a column that a row lacks stays empty.

        >>> print(Table("t", "", [{"a": 1}, {"b": "x, y"}], []).csv())
        a,b
        1,
        ,"x, y"
        <BLANKLINE>
        """
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: harmless(value) for key, value in row.items()} for row in self.rows)
        return text.getvalue()

    def latex(self) -> str:
        """A ``table`` environment; the document needs ``\\usepackage{booktabs}``."""
        columns = list(dict.fromkeys(key for row in self.shown for key in row))
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(self.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
            r"\toprule",
            " & ".join(map(tex, columns)) + r" \\",
            r"\midrule",
            *(" & ".join(tex(row.get(key, "")) for key in columns) + r" \\" for row in self.shown),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """Text as LaTeX prints it, anywhere in a table.

    >>> print(tex("50 % of a_b"), tex("[1, 2]"))
    50 \\% of a\\_b {}[1, 2]
    """
    found = "".join(LATEX.get(character, character) for character in str(text))
    return f"{{}}{found}" if found.startswith("[") else found  # after \\\\ a bracket would be its option


def harmless(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula, made a text.

    >>> harmless("=1+1"), harmless(-1.5), harmless("noise")
    ("'=1+1", -1.5, 'noise')
    """
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def write(folder: Path, tables: Iterable[Table]) -> None:
    """Leave each table as CSV and LaTeX; of an empty one nothing, not what an earlier report left either."""
    for table in tables:
        for kind, text in (("csv", table.csv), ("tex", table.latex)):
            path = folder / f"{table.stem}.{kind}"
            if table.rows:
                write_text(path, text())
            else:
                path.unlink(missing_ok=True)


def cells_table(arenas: Sequence[Arena]) -> Table:
    """One row for each cell."""
    rows, shown = [], []
    for arena in arenas:
        spec = decimals(interval(attacker(record)["mse"]) for record in arena.records())
        for place, setup in enumerate(arena.setups):
            for record in setup.records:
                rows.append(_cell_row(arena, setup, record, place in arena.front))
                images = {"images": arena.name} if len(arenas) > 1 else {}
                shown.append(images | _cell_shown(setup, record, spec))
    caption = (
        "All cells; brackets: 95 % intervals over the images of one training. Seeds: trainings of the configuration. "
        "Retrained: accuracy of a tail that was trained anew on the frozen wire, in the same way for all."
    )
    return Table("cells", caption, rows, shown)


def gains_table(found: Sequence[tuple[Arena, Gain]], equal: Mapping[int, str] | None = None) -> Table:
    """One row for each setup that has a partner without CEM.

    Args:
        equal: by the ``id`` of a setup with CEM, its error against that of noise alone at equal accuracy, as text.
    """
    equal = equal or {}
    rows, shown = [], []
    spec = decimals(gain.mse for _, gain in found)
    for arena, gain in found:
        before, after = gain.mse_means
        rows.append(
            {
                "arena": arena.name,
                "setup": gain.without.stack,
                "cem": gain.setup.cem,
                "seeds": len(gain.seeds),
                "best_mse_without": before,
                "best_mse_with": after,
                **_columns("best_mse_difference", gain.mse),
                "best_mse_relative": gain.relative,
                "accuracy_without": gain.accuracy_means[0],
                "accuracy_with": gain.accuracy_means[1],
                **_columns("accuracy_difference", gain.accuracy),
            }
        )
        shown.append(
            {
                "defense": gain.without.stack,
                "CEM": gain.setup.cem,
                "seeds": str(len(gain.seeds)),
                "MSE": f"{before:.4g} → {after:.4g}",
                "difference (MSE)": signed(gain.mse, spec),
                "MSE against noise, equal accuracy": equal.get(id(gain.setup), "–"),
                "accuracy %": f"{100 * gain.accuracy_means[0]:.1f} → {100 * gain.accuracy_means[1]:.1f}",
                "difference (points)": signed(points(gain.accuracy), ".1f"),
            }
        )
    caption = (
        "What CEM changes, paired on the attacked images of each seed; 95 % intervals over the seeds (Student), "
        "of a single seed over its images."
    )
    return Table("cem_gain", caption, rows, shown)


def points(value: Interval) -> Interval:
    """A share as percent."""
    return Interval(100 * value.mean, 100 * value.lo, 100 * value.hi)


def signed(value: Interval, spec: str = "") -> str:
    """A difference with its sign and a true minus.

    >>> signed(Interval(-0.8, -3.1, 1.4), ".1f"), signed(Interval(-0.01, -3.1, 1.4), ".1f")
    ('−0.8 [−3.1, 1.4]', '0.0 [−3.1, 1.4]')
    """
    mean, space, rest = format(value, spec).partition(" ")
    return plus(mean) + space + rest.replace("-", "−")


def plus(number: str) -> str:
    """A number as text with its sign, a true minus; zero has none.

    >>> plus("1.0"), plus("-1.0"), plus("-0.0")
    ('+1.0', '−1.0', '0.0')
    """
    bare = number.removeprefix("-")
    return bare if float(bare) == 0 else f"−{bare}" if number.startswith("-") else f"+{bare}"


def decimals(values: Iterable[Interval]) -> str:
    """One format for a column: with two digits of the median width of its intervals.

    >>> decimals([Interval(0.0103, 0.0099, 0.0107)])
    '.5f'
    """
    widths = sorted(value.hi - value.lo for value in values)
    width = widths[len(widths) // 2] if widths else 0.0
    return f".{max(0, 1 - math.floor(math.log10(width)))}f" if width > 0 else ".4g"


def percent(value: Interval) -> str:
    """A share in percent, without the sign.

    >>> percent(Interval(0.964, 0.942, 0.978))
    '96.4 [94.2, 97.8]'
    """
    return format(points(value), ".1f")


def _columns(name: str, value: Interval) -> dict[str, float]:
    return {name: value.mean, f"{name}_lo": value.lo, f"{name}_hi": value.hi}


def _cell_row(arena: Arena, setup: Setup, record: dict[str, Any], front: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"id": record["id"], "arena": arena.name, "setup": setup.name}
    row |= {"defense": " + ".join(record["defense"]), "seed": record["config"]["seed"], "sigma": setup.sigma}
    row |= {"seeds": len(setup.records), "cem": setup.cem, "front": int(front)}
    row |= _columns("accuracy", interval(record["accuracy"]))
    if known := record.get("retrained_accuracy"):
        row |= _columns("retrained_accuracy", interval(known))
    for metric in METRICS:
        row |= _columns(f"best_{metric}", interval(attacker(record)[metric]))
        row |= _columns(f"worst_{metric}", interval(record["worst_case"][metric]))
    row |= {"strongest": strongest(record), "leakage_nats": record["leakage_nats"], "epoch": record["epoch"]}
    row |= {"train_seconds": record["timings"]["train"], "tail_seconds": record["timings"].get("tail", "")}
    for label, attack in record["attacks"].items():
        for metric in ("mse", "ssim", "psnr"):
            row |= _columns(f"{label}_{metric}", interval(attack[metric]))
    return row


def _cell_shown(setup: Setup, record: dict[str, Any], spec: str) -> dict[str, str]:
    best, leakage, known = attacker(record), record["leakage_nats"], record.get("retrained_accuracy")
    return {
        "setup": setup.name,
        "seed": str(record["config"]["seed"]),
        "seeds": str(len(setup.records)),
        "accuracy %": percent(interval(record["accuracy"])),
        "retrained %": percent(interval(known)) if known else "–",
        "MSE": format(interval(best["mse"]), spec),
        "SSIM": f"{best['ssim']['mean']:.3f}",
        "leakage (nats)": "–" if leakage is None else f"{leakage:.0f}",
    }
