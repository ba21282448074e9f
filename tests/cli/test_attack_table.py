"""The table of attacks on a terminal: no figure is torn apart, and none has more digits than its interval supports."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from splitveil.cli import attack

RUN = SimpleNamespace(path=Path("runs/a"), summary={"accuracy": {"mean": 0.9, "ci95": [0.8, 0.95]}})
ROW = {
    "mse": {"mean": 0.0008649, "ci95": [0.0007637, 0.0009742]},
    "ssim": {"mean": 0.96123, "ci95": [0.95181, 0.96964]},
    "psnr": {"mean": 30.9012, "ci95": [30.4123, 31.3812]},
    "seconds": 6.2,
}
ABOUT = {
    "baseline_mse": 0.04745,
    "class_mean_mse": 0.02468,
    "protocol": "inference_time",
    "images": {"attacked": 36, "attacker": 324},
}
FIGURES = ["0.00086 [0.00076, 0.00097]", "0.961 [0.952, 0.970]", "30.90 [30.41, 31.38]"]


def shown(width, rows, monkeypatch):
    """The lines of the table on a terminal that is so wide."""
    console = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(attack, "out_console", console)
    console.print(attack._attack_table(RUN, rows, ABOUT))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("label", ["linear", "decoder-unet_normN1C32", "best attacker: residual"])
def test_eighty_letters_hold_every_interval_in_one_piece(label, monkeypatch):
    lines = shown(80, {label: ROW}, monkeypatch)
    for figure in FIGURES:
        mean, _, interval = figure.partition(" ")
        assert [mean in line for line in lines].index(True) < [interval in line for line in lines].index(True)
    assert max(map(len, lines)) <= 80


def test_a_wide_terminal_has_a_line_for_each_attack(monkeypatch):
    (line,) = [line for line in shown(130, {"linear": ROW}, monkeypatch) if line.startswith("linear")]
    assert line.split("  ")[0] == "linear"
    assert all(figure in line for figure in FIGURES)
