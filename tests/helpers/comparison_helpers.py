"""Finished runs and benches with figures that a test chooses, as training, attacks and bench leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitveil import config
from splitveil.cli import main
from splitveil.errors import UserError
from splitveil.results.comparison import compare
from splitveil.results.comparison_rows import Comparison, Row
from splitveil.statistics.intervals import binomial_ci, bootstrap_ci

Values = dict[str, list[float]]
ONLY = "best attacker: {}, the only attack that both have"


def values(mse: list[float], **more: list[float]) -> Values:
    return {"mse": mse, "psnr": [10.0] * len(mse), "ssim": [0.5] * len(mse), **more}


def attacked(
    run: Path, label: str, per_image: Values, held_out: dict[str, list[float]] | None = None, **changes: Any
) -> None:
    """What an attack leaves, with ``changes`` in its summary (None: without the key).

    ``held_out``: columns of the attacker's images that judge the attack; ``mse``, and perhaps ``wire_distance``.
    """
    rows = [",".join(map(repr, row)) for row in zip(*per_image.values(), strict=True)]
    lines = [",".join(["image", *per_image]), *(f"{i},{row}" for i, row in enumerate(rows))]
    summary: dict[str, Any] = {
        "attack": {label: {"epochs": 50}},
        "protocol": "train_time",
        "images": {"attacker": 90, "attacked": len(rows)},
        "images_digest": "d1",
        "baseline_mse": 0.5,
        "flags": [],
        "seconds": 1.0,
        **{name: bootstrap_ci(column).as_dict() for name, column in per_image.items()},
        **changes,
    }
    folder = run / "attacks" / label
    folder.mkdir(parents=True, exist_ok=True)
    if held_out:
        summary["held_out"] = {"images": len(held_out["mse"]), "mse": sum(held_out["mse"]) / len(held_out["mse"])}
        judged = [",".join(map(repr, row)) for row in zip(*held_out.values(), strict=True)]
        table = [",".join(["image", *held_out]), *(f"{i},{row}" for i, row in enumerate(judged))]
        (folder / "held_out.csv").write_text("\n".join(table) + "\n")
    (folder / "per_image.csv").write_text("\n".join(lines) + "\n")
    (folder / "summary.json").write_text(json.dumps({k: v for k, v in summary.items() if v is not None}))


def trained(path: Path, right: list[int] | tuple[int, int], *, digest: str = "t1", seed: int = 0, **more: Any) -> Path:
    """A finished run; ``right``: hit or miss on each test image, or (hits, images) of a run that did not keep them."""
    kept = isinstance(right, list)
    hits, count = (sum(right), len(right)) if kept else right
    path.mkdir(parents=True)
    settings = config.parse({"data": "digits", "arch": "resnet20_sgm", "cut": 2, "seed": seed, **more}).resolve()
    (path / "config.yaml").write_text(config.dump(settings))
    summary = {
        **{"accuracy": binomial_ci(hits, count).as_dict(), "images": {"train": 90, "test": count}},
        **{"epoch": 1, "seconds": 1.0, "wire": {"shape": [8, 8, 8], "bytes": 2048}, "parameters": {"encoder": 1}},
        "environment": {"splitveil": "0.1.0"},
    }
    if kept:
        rows = [f"{i},{i % 10},{i % 10 if hit else (i + 1) % 10}" for i, hit in enumerate(right)]
        (path / "test.csv").write_text("\n".join(["image,label,predicted", *rows]) + "\n")
        summary["test_digest"] = digest
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def bench(path: Path, cells: dict[str, float], *, attacks: dict[str, dict[str, Any]] | None = None) -> Path:
    """A bench of finished cells: id -> error of its first image; the second has 0.1 more.

    The id is the configuration, as ``c1``, or with a seed ``c1-s2``.
    """
    for name, error in cells.items():
        number, _, seed = name.partition("-s")
        about: dict[str, Any] = {"epochs": int(number[1:]) + 100 * ord(number[0]), "seed": int(seed or 0)}
        folder = trained(path / "cells" / name, [1, 0, 0], **about)
        for label, changes in (attacks or {"decoder": {}}).items():
            attacked(folder, label, values([error, error + 0.1]), **changes)
        summaries = {label: json.loads((folder / "attacks" / label / "summary.json").read_text()) for label in
                     (attacks or {"decoder": {}})}  # fmt: skip
        kept = ("attack", "mse", "psnr", "ssim", "baseline_mse", "flags", "seconds")
        first = next(iter(summaries.values()))
        record = {
            **{"schema": 1, "id": name, "grid": "g", "axes": {"sigma": error, "seed": about["seed"]}},
            "config": {"data": "digits", "arch": "resnet20_sgm", "cut": 2, **about},
            **{"defense": [], "protocol": first["protocol"], "attacker_size": None, "attacked": None},
            **{"accuracy": binomial_ci(1, 3).as_dict(), "epoch": 1, "leakage_nats": None},
            **{"wire": {"shape": [8], "bytes": 32}, "parameters": {"encoder": 1}},
            "timings": {"train": 1.0, "attacks": {}, "total": 1.0},
            "attacks": {label: {k: found[k] for k in kept} for label, found in summaries.items()},
            "worst_case": {key: first[key] for key in ("mse", "psnr", "ssim")},
            **{"images_digest": first.get("images_digest"), "environment": {"splitveil": "0"}, "git": None},
            "curve": [{"epoch": 0, "loss": 1.0, "accuracy_val": 0.5}],
            **{"finished": "2026-01-01T00:00:00+00:00", "attempts": 1},
        }
        (folder / "record.json").write_text(json.dumps(record))
    return path


def refused(a: str | Path, b: str | Path) -> str:
    with pytest.raises(UserError) as error:
        compare(a, b)
    assert "\n" not in str(error.value)
    return str(error.value)


def shown(capsys, *tokens: object) -> str:
    main(["compare", *map(str, tokens)])
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def rows(a: Path, b: Path) -> dict[tuple[str, str], Row]:
    found = compare(a, b)
    assert isinstance(found, Comparison)
    return {(row.what, row.metric): row for row in found.rows}


def notes(a: Path, b: Path) -> str:
    found = compare(a, b)
    assert isinstance(found, Comparison)
    return "\n".join(found.notes)
