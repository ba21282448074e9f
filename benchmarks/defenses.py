"""The paper's table in small: every published defense without and with CEM, on CIFAR-10 images.

    python benchmarks/defenses.py [--root data/cifar10] [--out runs/defenses] [--jobs 2] [--only PATTERN]

Every cell is a run folder; finished cells are skipped, a stopped one resumes. Writes benchmarks/defenses.json and
prints the table.
"""

from __future__ import annotations

from typing import Any

import cells
from rich.console import Console
from rich.table import Table

EPOCHS = 8
NOISE = "gaussian:0.025"
STACKS = {
    "bottleneck": [NOISE],
    "adversarial (ResSFL)": [NOISE, "adversarial:0.3"],
    "nopeek (DistCorr)": [NOISE, "nopeek:0.5"],
    "dropout": [NOISE, "dropout:0.2"],
    "noise + adversarial": ["gaussian:0.15", "adversarial:0.3"],
    "patrol + adversarial": [NOISE, "adversarial:0.3", f"patrol:{EPOCHS // 2}"],
    "noise + nopeek": ["gaussian:0.15", "nopeek:0.5"],
}
"""The rows of the published table under our names; the bottleneck is in all of them."""


def plan() -> cells.Plan:
    """Each stack alone (cem:0 only measures) and with CEM, whose clusters stayed within an epoch at the time."""
    pairs = [(name, stack, weight) for name, stack in STACKS.items() for weight in (0, 16)]
    return cells.Plan(
        cells={key(name, weight): {"defense": [*stack, f"cem:{weight},follow=0"]} for name, stack, weight in pairs},
        settings={**cells.NETWORK, "train_size": 2000, "epochs": EPOCHS},
        attacks=("linear", "decoder:epochs=12,batch_size=64"),
        attacker_size=900,
        attacked=500,
    )


def show(rows: list[dict[str, Any]]) -> None:
    """The table, without -> with CEM; the better of both attacks is what counts."""
    by_name = {row["cell"]: row for row in rows}
    table = Table("defense", "accuracy %", "decoder MSE", "linear MSE", "decoder SSIM", title="without → with CEM")
    for name in STACKS:
        pair = [by_name.get(key(name, weight)) for weight in (0, 16)]
        if all(pair):
            columns = (("accuracy",), ("decoder", "mse"), ("linear", "mse"), ("decoder", "ssim"))
            table.add_row(name, *(" → ".join(cell(row, path) for row in pair if row) for path in columns))
    Console(width=150).print(table)


def key(name: str, weight: int) -> str:
    """Name of a cell: a folder name."""
    return "".join(c for c in name.split(" (")[0].replace(" + ", "_") if c.isalnum() or c == "_") + f"-cem{weight}"


def cell(row: dict[str, Any], path: tuple[str, ...]) -> str:
    """A figure with its 95 % interval."""
    value: Any = row
    for key in path:
        value = value[key]
    mean, low, high = (value["mean"], *value["ci95"])
    factor, digits = {"accuracy": (100, 1), "mse": (1, 4), "ssim": (1, 3)}[path[-1]]
    return f"{factor * mean:.{digits}f} ±{factor * (high - low) / 2:.{digits}f}"


if __name__ == "__main__":
    show(cells.main(plan(), __doc__ or "", "defenses"))
