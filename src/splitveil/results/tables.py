"""The tables of a report as CSV and as LaTeX (booktabs)."""

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
from . import ceiling
from .ceiling import SHARE, Shares
from .cem_effect import CemEffect
from .equal_accuracy import Equal
from .groups import ComparisonGroup, Configuration
from .published_tables import Figure, Line
from .record_types import Record
from .records import METRICS

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
        """Return one line for each row; a column that a row lacks stays empty.

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
        r"""Return a ``table`` environment; the document needs the package booktabs.

        A column in which no row has a value is left out: it takes room on the page and says nothing.

        >>> made = Table("t", "", [], [{"a": "x", "b": "–", "c": "1"}, {"a": "y", "b": "", "c": "–"}]).latex()
        >>> made.splitlines()[3:8]
        ['\\begin{tabular}{lr}', '\\toprule', 'a & c \\\\', '\\midrule', 'x & 1 \\\\']
        """
        columns = list(dict.fromkeys(key for row in self.shown for key in row))
        known = {key for row in self.shown for key, value in row.items() if value not in ("", "–")}
        columns = [key for key in columns if key in known or key == columns[0]]
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
    r"""Return text as LaTeX prints it, anywhere in a table.

    >>> print(tex("50 % of a_b"), tex("[1, 2]"))
    50 \% of a\_b {}[1, 2]
    """
    found = "".join(LATEX.get(character, character) for character in str(text))
    return f"{{}}{found}" if found.startswith("[") else found  # after \\\\ a bracket would be its option


def harmless(value: Any) -> Any:
    """Return a text that a spreadsheet would run as a formula as a text.

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


def cells_table(groups: Sequence[ComparisonGroup], shares: Shares | None = None) -> Table:
    """Return one row for each cell.

    Args:
        groups: the groups of configurations that may be compared.
        shares: as of `ceiling.shares`.
    """
    shares = shares or {}
    rows, shown = [], []
    for group in groups:
        spec = decimals(record.attacker.mse for record in group.records)
        for place, one in enumerate(group.configurations):
            for record in one.records:
                rows.append(_cell_row(group, one, record, place in group.front, shares))
                images = {"images": group.name} if len(groups) > 1 else {}
                shown.append(images | _cell_shown(one, record, spec, shares))
    caption = (
        "All cells; brackets: 95 % intervals over the images of one training. Seeds: trainings of the configuration. "
        "Retrained: accuracy of a tail that was trained anew on the frozen wire, in the same way for all."
    )
    return Table("cells", caption + ceiling.about(shares), rows, shown)


def _cell_row(
    group: ComparisonGroup, one: Configuration, record: Record, front: bool, shares: Shares
) -> dict[str, Any]:
    row: dict[str, Any] = {"id": record.id, "arena": group.name, "setup": one.name}
    row |= {"defense": " + ".join(record.defense), "seed": record.seed, "sigma": one.sigma}
    row |= {"seeds": len(one.records), "cem": one.cem, "front": int(front)}
    row |= _columns("accuracy", record.accuracy)
    if record.retrained_accuracy:
        row |= _columns("retrained_accuracy", record.retrained_accuracy)
    for metric in METRICS:
        row |= _columns(f"best_{metric}", getattr(record.attacker, metric))
        row |= _columns(f"worst_{metric}", getattr(record.worst_case, metric))
    if record.class_mean_mse is not None:
        row |= {"class_mean_mse": record.class_mean_mse}
    if share := shares.get(record.id):
        row |= {"undefended": share.reference.defense, **_columns("share_of_ceiling", share.value)}
    row |= {"strongest": record.strongest, "leakage_nats": record.leakage_nats, "epoch": record.epoch}
    row |= {"train_seconds": record.timings.train, "tail_seconds": record.timings.tail}
    for label, attack in record.attacks.items():
        for metric in ("mse", "ssim", "psnr"):
            row |= _columns(f"{label}_{metric}", getattr(attack, metric))
    return row


def _cell_shown(one: Configuration, record: Record, spec: str, shares: Shares) -> dict[str, str]:
    share = shares.get(record.id)
    return {
        "setup": one.name,
        "seed": str(record.seed),
        "seeds": str(len(one.records)),
        "accuracy %": percent(record.accuracy),
        "retrained %": percent(record.retrained_accuracy) if record.retrained_accuracy else "–",
        "MSE": format(record.attacker.mse, spec),
        **({SHARE: ceiling.text(share.value if share else None)} if shares else {}),
        "SSIM": f"{record.attacker.ssim.mean:.3f}",
        "leakage estimate (nats)": "–" if record.leakage_nats is None else f"{record.leakage_nats:.0f}",
    }


def effects_table(
    found: Sequence[tuple[ComparisonGroup, CemEffect]], equal: Mapping[int, Equal], shares: Shares | None = None
) -> Table:
    """Return one row for each configuration that has a partner without CEM.

    Args:
        found: the effects, each with its group.
        equal: by the ``id`` of a configuration, its comparison with noise alone at equal accuracy.
        shares: as of `ceiling.shares`.
    """
    rows, shown, shares = [], [], shares or {}
    spec = decimals(effect.mse for _, effect in found)
    for group, effect in found:
        before, after = effect.mse_means
        ways = [ceiling.of_configuration(one, shares) for one in (effect.without, effect.configuration)]
        rows.append(
            {
                **{"arena": group.name, "setup": effect.without.stack, "cem": effect.configuration.cem},
                **{"seeds": len(effect.seeds), "best_mse_without": before, "best_mse_with": after},
                **_columns("best_mse_difference", effect.mse),
                "best_mse_relative": effect.relative,
                **dict(zip(("accuracy_without", "accuracy_with"), effect.accuracy_means, strict=True)),
                **_columns("accuracy_difference", effect.accuracy),
                **(_columns("share_of_ceiling_without", ways[0]) if shares else {}),
                **(_columns("share_of_ceiling_with", ways[1]) if shares else {}),
            }
        )
        shown.append(
            {
                "defense": effect.without.stack,
                "CEM": effect.configuration.cem,
                "seeds": str(len(effect.seeds)),
                "MSE": f"{before:.4g} → {after:.4g}",
                "difference (MSE)": signed(effect.mse, spec),
                **({SHARE: ceiling.way(*ways)} if shares else {}),
                "MSE against noise, equal accuracy": at_equal(equal.get(id(effect.configuration))),
                "accuracy %": " → ".join(f"{100 * share:.1f}" for share in effect.accuracy_means),
                "difference (points)": signed(effect.accuracy.scaled(100), ".1f"),
            }
        )
    caption = (
        "What CEM changes, paired on the attacked images of each seed; 95 % intervals over the seeds (Student), "
        "of a single seed over its images."
    )
    return Table("cem_gain", caption + ceiling.about(shares), rows, shown)


EQUAL: tuple[str, ...] = ("defense", "seeds", "accuracy %", "MSE", "noise alone there", "same σ, MSE %")
EQUAL += ("equal accuracy, MSE %", SHARE, "p, Holm", "verdict")


def equal_table(found: Sequence[tuple[ComparisonGroup, Equal]], shares: Shares | None = None) -> Table:
    """Return one row for each defense that has a curve of noise.

    Args:
        found: the comparisons at equal accuracy, each with its group.
        shares: as of `ceiling.shares`.
    """
    shares = shares or {}
    rows = [
        {
            **{"arena": group.name, "setup": row.configuration.name, "seeds": len(row.seeds)},
            **{"accuracy_of": row.measured, "accuracy": row.accuracy, "mse": row.mse, "noise_mse": row.reference},
            **_columns("log_mse_same_sigma", row.raw),
            **_columns("log_mse_equal_accuracy", row.difference),
            **_columns("share_of_ceiling", ceiling.of_configuration(row.configuration, shares)),
            **{"beyond_the_curve": row.beyond, "p_holm": row.p, "verdict": row.verdict},
        }
        for group, row in found
    ]
    caption = (
        "Defenses against noise alone. Same σ: change of the best attacker's MSE against noise alone of that strength; "
        "equal accuracy: against noise alone at the strength where it is as accurate, interpolated. 95 % intervals by "
        "the bootstrap over seeds and images; p corrected for the number of rows (Holm)."
    )
    shown = [dict(zip(EQUAL, equal_cells(row, shares), strict=True)) for _, row in found]
    return Table("equal_accuracy", caption + ceiling.about(shares), rows, shown)


def equal_cells(row: Equal, shares: Shares) -> tuple[str, ...]:
    """Return a row of the table as texts, under the titles `EQUAL`.

    Args:
        row: the comparison.
        shares: as of `ceiling.shares`.
    """
    accuracy = "–" if row.accuracy is None else f"{100 * row.accuracy:.1f} ({row.measured})"
    errors = ("–" if value is None else f"{value:.4g}" for value in (row.mse, row.reference))
    p = "–" if row.p is None else "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"
    near = row.difference is not None and row.beyond > 0.05
    note = f"; near the curve’s end ({100 * row.beyond:.0f} % of the resamples beyond it)" if near else ""
    about = (row.configuration.name, str(len(row.seeds)), accuracy, *errors)
    way = ceiling.text(ceiling.of_configuration(row.configuration, shares))
    return (*about, relative(row.raw), relative(row.difference), way, p, row.verdict + note)


def at_equal(row: Equal | None) -> str:
    """Return the difference at equal accuracy as a cell of a table."""
    if row is None:
        return "–"
    return f"{relative(row.difference)} %" if row.difference else row.why


def relative(value: Interval | None) -> str:
    """Return a difference of logarithms as a change in percent.

    >>> relative(Interval(0.1, -0.05, 0.2)), relative(None)
    ('+11 [−5, 22]', '–')
    """
    if value is None:
        return "–"
    # Of two trainings an interval may reach so far that its end is no number to print.
    return signed(Interval(*(100 * math.expm1(min(end, 20.0)) for end in (value.mean, value.lo, value.hi))), ".0f")


def published_table(found: Sequence[tuple[ComparisonGroup, Line]]) -> Table:
    """Return one row for each figure of the published table that has one of ours beside it."""
    rows = [
        {
            **{"arena": group.name, "method": line.method, "setup": line.configuration.name},
            **{"figure": figure_title(figure).partition(" ×")[0].partition(",")[0], "published": figure.published},
            **_columns("ours", figure.ours),
            "seeds": len(line.configuration.records),
        }
        for group, line in found
        for figure in line.figures
    ]
    shown = []
    for _, line in found:
        row = {"method": line.method, "ours": line.configuration.name, "seeds": str(len(line.configuration.records))}
        for figure in line.figures:
            published, ours, _ = figure_texts(figure)
            row |= {f"{figure_title(figure)}: published": published, f"{figure_title(figure)}: ours": ours}
        shown.append(row)
    return Table("paper", "The published table (arXiv 2503.00383) beside ours.", rows, shown)


def figure_title(figure: Figure) -> str:
    """Return the title of the column of a published figure."""
    names = {"": "accuracy, %", "decoder": "decoder MSE × 10⁻⁴", "gan": "GAN MSE × 10⁻⁴"}
    return names[figure.attack]


def figure_texts(figure: Figure) -> tuple[str, str, str]:
    """Return the published figure, ours and their difference as texts."""
    if not figure.attack:
        return f"{100 * figure.published:.2f}", percent(figure.ours), plus(f"{100 * figure.change:.1f}")
    return f"{1e4 * figure.published:.0f}", f"{figure.ours.scaled(1e4):.0f}", f"{plus(f'{100 * figure.change:.0f}')} %"


def signed(value: Interval, spec: str = "") -> str:
    """Return a difference with its sign and a true minus.

    >>> signed(Interval(-0.8, -3.1, 1.4), ".1f"), signed(Interval(-0.01, -3.1, 1.4), ".1f")
    ('−0.8 [−3.1, 1.4]', '0.0 [−3.1, 1.4]')
    """
    mean, space, rest = format(value, spec).partition(" ")
    return plus(mean) + space + rest.replace("-", "−")


def plus(number: str) -> str:
    """Return a number as text with its sign, a true minus; zero has none.

    >>> plus("1.0"), plus("-1.0"), plus("-0.0")
    ('+1.0', '−1.0', '0.0')
    """
    bare = number.removeprefix("-")
    return bare if float(bare) == 0 else f"−{bare}" if number.startswith("-") else f"+{bare}"


def decimals(values: Iterable[Interval]) -> str:
    """Return one format for a column: with two digits of the median width of its intervals.

    >>> decimals([Interval(0.0103, 0.0099, 0.0107)])
    '.5f'
    """
    widths = sorted(value.hi - value.lo for value in values)
    width = widths[len(widths) // 2] if widths else 0.0
    return f".{max(0, 1 - math.floor(math.log10(width)))}f" if width > 0 else ".4g"


def percent(value: Interval) -> str:
    """Return a share in percent, without the sign.

    >>> percent(Interval(0.964, 0.942, 0.978))
    '96.4 [94.2, 97.8]'
    """
    return format(value.scaled(100), ".1f")


def _columns(name: str, value: Interval | None) -> dict[str, float | None]:
    ends = (value.mean, value.lo, value.hi) if value else (None, None, None)
    return dict(zip((name, f"{name}_lo", f"{name}_hi"), ends, strict=True))
