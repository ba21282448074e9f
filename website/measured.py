"""Pages of results, made from the records at every build, so that no figure on them can be stale."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import links, tables
from .staging import ROOT, place

MADE_BY = {
    "audit": "splitveil audit runs/hard --against runs/fast12",
    "cuts": "splitveil audit resnet20 --layers all --data cifar10 --root data/cifar10 --out cuts",
    "defense_cost": "python benchmarks/defense_cost.py --rounds 9 --threads 2",
    "diagnosis": "splitveil diagnose runs/epochs --out runs/diagnosis",
    "diagnosis_control": "splitveil diagnose runs/control --out runs/diagnosis",
    "hardening": "python benchmarks/hardening.py runs/fast24 --decoder decoder:epochs=8",
    "hardening_resnet18": "python benchmarks/hardening.py runs/resnet18",
    "hardening_resnet20": "python benchmarks/hardening.py runs/resnet20",
    "small_clusters": "python benchmarks/small_clusters.py --run runs/few",
    "speed": "make bench",
    "speed_bf16": "python benchmarks/speed.py --rounds 11 --out benchmarks/speed_bf16.json",
    "fast-24-epochs": "splitveil train --recipe fast --optimizer sgd --epochs 24",
    "ablation-h100": "python benchmarks/gpu.py",
    "profile-h100": "python benchmarks/gpu_profile.py",
}
"""Commands of records that do not name theirs."""
TITLES = {
    "adapted": "What an attacker gains by knowing the defense",
    "attacks": "Ten attacks on four defenses",
    "audit": "A privacy card",
    "bounds_cost": "The time that bounds take",
    "card": "A privacy card in a browser",
    "codecs": "What each codec costs and hides",
    "cuts": "Every cut of a ResNet-20",
    "decoder_precision": "Decoders trained in bf16 and in fp32",
    "defense_cost": "The cost of a training step with each defense",
    "defenses": "CEM on seven defenses",
    "diagnosis": "Logged leakage against attack error, epoch by epoch",
    "diagnosis_control": "The same without CEM",
    "edge_cost": "The device's side: size, memory and time",
    "estimators": "Estimators of leakage on channels of known leakage",
    "freshness": "Whether every wire has noise of its own",
    "grpc_faults": "The gRPC server under faults",
    "hardening": "Noise put on a trained network",
    "hardening_front": "Noise put on trained networks, at several accuracies",
    "waterfill_attack": "The worst attack that was found for a known noise",
    "held_out_leakage": "Leakage on images that were not trained on",
    "interoperability": "Other clients of the Open Inference Protocol",
    "linear_speed": "The linear attack with few images",
    "masked_gradient": "An attack that trusts a masked gradient",
    "page": "The encoder in a browser",
    "phone": "The encoder in ExecuTorch",
    "site": "The documentation site in a browser",
    "predictors": "Numbers about a wire, and what attacks on it reach",
    "rivals": "Water-filled noise beside CEM, in short trainings",
    "waterfill_searches": "Searches with a model of images, on two kinds of noise",
    "larger_attacker": "Adversarial training and water-filled noise, against more images",
    "weight_averaging": "Means of the last weights",
    "recipe_trials": "Other rates, dropout and hidden squares in the fast recipe",
    "full_front": "Every defense against isotropic and water-filled noise, in trainings on all images",
    "short_front": "Every defense against isotropic and water-filled noise, in short trainings",
    "hardening_resnet18": "Noise put on a network of torchvision, 64-pixel images",
    "hardening_resnet20": "Noise put on a ResNet-20, 64-pixel images",
    "tradeoff_follow": "CEM with clusters that follow, against noise",
    "rmle_speed": "The optimization attack on many images at once",
    "runner": "The cost of the runner of grids",
    "serving": "A served model beside its bare tail",
    "serving_faults": "The HTTP server under faults",
    "serving_ray": "Serving on Ray",
    "small_clusters": "CEM with few images per cluster",
    "speed": "The speed of training and attacking, in fp32",
    "speed_bf16": "The speed of training and attacking, in bf16",
    "suites_v2": "The second suite beside the first",
    "survival": "A grid whose parts are killed",
    "tails": "A tail in 8-bit integers",
    "tutorials": "The tutorials on CIFAR-10",
    "tradeoff": "CEM against more noise",
    "trained_tradeoff": "CEM against training with more noise, whole trainings",
    "fast-12-epochs": "CIFAR-10 in 12 epochs, with bf16",
    "fast-12-epochs-cem16": "CIFAR-10 in 12 epochs with CEM, clusters that stay",
    "fast-12-epochs-cem4": "CIFAR-10 in 12 epochs with CEM, clusters that follow",
    "fast-24-epochs": "CIFAR-10 in 24 epochs",
    "fast-16-epochs-muon": "CIFAR-10 in 16 epochs, with Muon",
    "fast-30-epochs-cutout": "CIFAR-10 in 30 epochs, with Muon and hidden squares",
    "fast-4-epochs-muon": "CIFAR-10 in 4 epochs, with Muon",
    "fast-4-epochs-muon-cem16": "CIFAR-10 in 4 epochs with Muon and CEM",
    "profile-h100": "A training step on an H100",
}
"""Titles of the pages; a record without one is titled by its name."""
ABOUT = ("command", "machine", "environment", "commit", "schema")
"""Parts of a record that say how it was made."""
FULL = 400
"""Rows of a page at most; what is longer stays in the file."""


def write(out: Path) -> list[tuple[str, str]]:
    """Write the pages of all claims and measurements.

    Args:
        out: folder of the site's sources.

    Returns:
        Title and path of each page, for the navigation; the first two are overviews.
    """
    (out / "results").mkdir(parents=True, exist_ok=True)
    cited = citations()
    (out / "results/claims.md").write_text(claims(), encoding="utf-8")
    pages, overview = [], []
    for path in measurements():
        title = TITLES.get(path.stem, tables.name(path.stem).capitalize())
        (out / f"results/{path.stem}.md").write_text(measurement(path, title, cited), encoding="utf-8")
        raw = out / "results/raw" / path.name
        raw.parent.mkdir(exist_ok=True)
        raw.write_bytes(path.read_bytes())
        pages.append((title, f"results/{path.stem}.md"))
        overview.append([f"[{title}]({path.stem}.md)", f"`{command_of(path)}`"])
    pages.sort()
    text = (
        "# All measurements\n\nEvery measurement that these pages cite, with the command that repeats it. The tables\n"
    )
    text += "are made from the records when the site is built; each page links to its record.\n\n"
    text += tables.table(["measurement", "command"], sorted(overview)) + "\n"
    (out / "results/measurements.md").write_text(text, encoding="utf-8")
    return [("Claims and their records", "results/claims.md"), ("All measurements", "results/measurements.md"), *pages]


def measurements() -> list[Path]:
    """Return the records of measurements: JSON files of benchmarks/ and of its folders of records."""
    return sorted([*(ROOT / "benchmarks").glob("*.json"), *(ROOT / "benchmarks").glob("*_records/*.json")])


def load(path: Path) -> dict[str, Any]:
    """Return what a record holds.

    Args:
        path: of a JSON file.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def command_of(path: Path) -> str:
    """Return the command that makes a measurement anew.

    Args:
        path: its record.

    Raises:
        KeyError: neither the record nor `MADE_BY` says it.
    """
    return load(path).get("command") or MADE_BY[path.stem]


def citations() -> dict[str, list[str]]:
    """Return the pages that link to each record, by the record's path in the repository."""
    found: dict[str, list[str]] = {}
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for _, target in links.targets(page.read_text(encoding="utf-8")):
            file = (page.parent / target.partition("#")[0]).resolve()
            if file.suffix == ".json" and file.is_relative_to(ROOT):
                pages = found.setdefault(file.relative_to(ROOT).as_posix(), [])
                pages += [name] if (name := page.relative_to(ROOT).as_posix()) not in pages else []
    return found


def measurement(path: Path, title: str, cited: Mapping[str, list[str]]) -> str:
    """Return the page of one measurement.

    Args:
        path: its record.
        title: of the page.
        cited: pages that link to each record.
    """
    record = load(path)
    machine = record.get("machine") or record.get("environment") or {}
    rows = [["command", f"`{command_of(path)}`"]]
    rows += [["machine", tables.cell(machine)]] if machine else []
    rows += [["commit", f"`{record['commit']}`"]] if "commit" in record else []
    pages = cited.get(path.relative_to(ROOT).as_posix(), [])
    if pages:
        named = (f"[{heading(ROOT / page)}](../{place(Path(page))})" for page in pages)
        rows.append(["discussed in", ", ".join(named)])
    rows.append(["record", f"[{path.name}](raw/{path.name})"])
    script = ROOT / "benchmarks" / f"{path.stem}.py"
    about = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "") if script.is_file() else ""
    about = about.split("\n\n")[0]
    body = tables.shown({key: value for key, value in record.items() if key not in ABOUT}, 2)
    parts = [
        f"# {title}",
        tables.escaped(about),
        tables.table(["how it was made", "value"], rows),
        cut(body, path.name),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def cut(body: str, name: str) -> str:
    """Return a page's tables, or so many whole ones of them as a page should have.

    Args:
        body: the tables under their headings.
        name: of the file that has the rest.
    """
    blocks = body.split("\n\n")
    kept, rows = [], 0
    for block in blocks:
        rows += block.count("\n")
        if rows > FULL:
            kept = kept[:-1] if kept and kept[-1].startswith("#") else kept
            return "\n\n".join([*kept, f"The rest is in [the record](raw/{name})."])
        kept.append(block)
    return body


def heading(page: Path) -> str:
    """Return the title of a page.

    Args:
        page: a Markdown file.
    """
    lines = links.prose(page.read_text(encoding="utf-8"))
    return next(found[1] for _, line, is_prose in lines if is_prose and (found := links.HEADING.match(line)))


def figure(value: Mapping[str, Any]) -> str:
    """Return the figure of a claim with its interval and unit.

    Args:
        value: ``figure`` of a record of records/.

    >>> figure({"mean": -0.845, "ci95": [-3.1, 1.41], "unit": "percentage points", "format": ".1f"})
    '−0.8 [−3.1, 1.4] percentage points'
    """
    form = value.get("format", ".4g")
    unit = f" {tables.escaped(value['unit'])}" if value.get("unit") else ""

    def number(one: float) -> str:
        return format(one, form).replace("-", "−")

    if "ci95" in value:
        low, high = value["ci95"]
        return f"{number(value['mean'])} [{number(low)}, {number(high)}]{unit}"
    if "lowest" in value:
        return f"{number(value['lowest'])} to {number(value['highest'])}{unit}"
    if isinstance(value["value"], bool):
        return "shown by tests"
    quartiles = f" (quartiles {', '.join(map(number, value['quartiles']))})" if "quartiles" in value else ""
    return f"{number(value['value'])}{quartiles}{unit}"


def claims() -> str:
    """Return the page of all claims: the figures of README and docs, each with its setting, command and machine."""
    records = {path.stem: load(path) for path in sorted((ROOT / "records").glob("*.json"))}
    text = ["# Claims and their records"]
    text.append(
        "Each figure that these pages publish as ours has a record: what is claimed, in which setting, from which\n"
        "measurement and command. A test computes every figure anew from its measurement, and checks that the page\n"
        "still says it. [How a claim is recorded](how-claims-are-recorded.md)."
    )
    rows = []
    for name, record in records.items():
        taken_back = "**Withdrawn.** " if "withdrawn" in record else ""
        rows.append([f"[{tables.escaped(record['claim'])}](#{name})", taken_back + figure(record["figure"])])
    text.append(tables.table(["claim", "figure"], rows))
    for name, record in records.items():
        text += [f"## {name}", tables.escaped(record["claim"]), tables.table(["what", "value"], _about(record))]
    return "\n\n".join(text) + "\n"


def _about(record: Mapping[str, Any]) -> list[list[str]]:
    rows = [["figure", f"**{figure(record['figure'])}**"]]
    if interval := record["figure"].get("interval"):
        rows.append(["interval", tables.escaped(interval)])
    if "withdrawn" in record:
        rows.append(["withdrawn", tables.escaped(record["withdrawn"])])
    seeds = ", ".join(map(str, record["seeds"])) or "none: nothing random is averaged"
    rows += [["setting", tables.escaped(record["setting"])], ["command", f"`{record['command']}`"], ["seeds", seeds]]
    rows += [["machine", tables.escaped(record["machine"])], ["commit", f"`{record['commit'][:12]}`"]]
    file = record["recompute"].get("file")
    if file:
        name = Path(file).stem
        rows.append(["measurement", f"[{TITLES.get(name, name)}]({name}.md)"])
    else:
        tests = (f"`{test}`" for test in record["recompute"]["tests"])
        rows.append(["shown by", ", ".join(tests)])
    rows.append(["note", re.sub(r"\s+", " ", tables.escaped(record["note"]))])
    return rows
