"""Execute the tutorials: docs/tutorials/NAME.py becomes NAME.md with its pictures, and NAME.ipynb; git ignores both.

    python benchmarks/tutorials.py                                     # what changed, or all where the package did
    python benchmarks/tutorials.py --data data/cifar10 attack_a_model  # by hand: writes benchmarks/tutorials.json

A page shows the figures of tutorials.json where its source says so, and they are never typed by hand.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FOLDER, RECORD = ROOT / "docs" / "tutorials", ROOT / "benchmarks" / "tutorials.json"
MARK = "<!-- cifar10 -->"
"""Where a page shows the figures of the record."""
NAMES = ("protect_my_network", "attack_a_model", "read_a_card", "from_a_run_to_a_service")
MOST_SECONDS = 4 * 3600
FIGURES: dict[str, dict[str, str]] = {
    "protect_my_network": {
        "accuracy, undefended": "format(accuracy, '.3f')",
        "accuracy, with noise and CEM": "format(accuracy_after, '.3f')",
        "accuracy, hardened": "format(accuracy_quiet, '.3f')",
        "error of the decoder, undefended": "str(before.interval())",
        "error of the decoder, with noise and CEM": "str(after.interval())",
        "error of the decoder, hardened": "str(quiet.interval())",
        "mean image; mean image of the right class": "f'{after.baseline_mse:.4f}; {after.class_mean_mse:.4f}'",
        "flags of the decoder, undefended; with noise and CEM; hardened": (
            "'; '.join(str(len(one.flags)) for one in (before, after, quiet))"
        ),
        "images: to train on, of the attacker, under attack": (
            "f'{len(train[0]):,}, {len(own[0]):,}, {len(under_attack[0]):,}'"
        ),
    },
    "attack_a_model": {
        "accuracy": "format(accuracy, '.3f')",
        "error of the decoder of 2 epochs": "str(hasty.interval())",
        "error of the decoder of 15 epochs": "str(patient.interval())",
        "best attacker": "f'{report.best_attacker}: {report.results[report.best_attacker].interval()}' "
        "if report.best_attacker in report.results else f'{report.best_attacker}: {report.mse:.4f}'",
        "worst case": "f'{report.worst_case_mse:.4f}'",
        "mean image; mean image of the right class": "f'{patient.baseline_mse:.4f}; {patient.class_mean_mse:.4f}'",
        "error of the linear attack with one wire": "str(once.interval())",
        "error of the linear attack with eight wires": "str(eight.interval())",
        "images: to train on, of the attacker, under attack": (
            "f'{len(theirs[0]):,}, {len(own[0]):,}, {len(under_attack[0]):,}'"
        ),
    },
}
"""Tutorial -> what its table of CIFAR-10 shows -> an expression in its last names."""
CLAIMS: dict[str, list[str]] = {
    "protect_my_network": [
        "linear['stage1'].mse < linear['stage2'].mse < linear['narrow'].mse < linear['narrow'].baseline_mse",
        "not before.flags and not after.flags and not quiet.flags",
        "before.mse < 0.4 * before.baseline_mse",
        "ratio.lo > 1.5 and quiet.ratio(before).lo > 1.5",
        "accuracy.mean > 0.9 and accuracy_after.mean > 0.85 and accuracy_quiet.mean > 0.85",
        "history[-1]['loss'] < history[0]['loss']",
        "history[-1]['leakage_nats'] <= max(one['leakage_nats'] for one in history)",
        "hasty.flags and hasty.mse > 2 * after.mse",
        "0.2 < share < 1",
    ],
    "attack_a_model": [
        "hasty.flags and hasty.mse > 0.8 * hasty.baseline_mse",
        "patient.mse < 0.3 * hasty.mse and not patient.flags",
        "report.worst_case_mse < report.mse < 0.5 * patient.class_mean_mse",
        "report.results['nearest'].mse > report.mse",
        "eight.ratio(once).hi < 1",
    ],
    "read_a_card": [
        "_exit_code == 2",
        "card['verdict']['level'] == 'reduces leakage'",
        "any('smoke-v1' in flag for flag in card['flags'])",
        "{line['requirement'] for line in card['policy']['lines'] if not line['met']} == "
        "{'linkage', 'share_of_ceiling', 'flags'}",
    ],
    "from_a_run_to_a_service": [
        "server.returncode == 0",
        "sum(answer.label == str(digit) for digit, answer in enumerate(answers)) >= 5",
        "errors[1] < errors[0]",
        "np.array_equal(one.logits, two.logits) and not np.array_equal(one.logits, three.logits)",
        "first[0].nbytes < pictures[0].nbytes",
    ],
}
"""Tutorial -> what its text says of its outputs, as expressions in its last names, without which no page is written."""
COLORS = re.compile(r"\x1b\[[0-9;]*m")


def main() -> None:
    """Execute the tutorials that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10: record its figures, write no page")
    given = parser.parse_args()
    os.environ |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.data:
        for name in given.names or FIGURES:
            record(name, given.data.resolve())
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each has a kernel, a process of its own
        for name, seconds in pool.map(build, given.names or NAMES):
            print(f"{name}: {seconds:.0f} s" if seconds else f"{name}: as it was")


def build(name: str) -> tuple[str, float]:
    """Write the pages of a tutorial, and return the seconds; 0 where those of the same sources are there."""
    start = time.perf_counter()
    source, page = FOLDER / f"{name}.py", FOLDER / f"{name}.md"
    digest = fingerprint(source)
    if page.is_file() and page.read_text("utf-8").endswith(f"<!-- {digest} -->\n"):
        return name, 0.0
    notebook = jupytext.read(source, fmt="py:percent")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace(MARK, on_cifar10(name))
    notebook.cells.append(nbformat.v4.new_code_cell("\n".join(f"assert {claim}" for claim in CLAIMS[name])))
    execute(notebook)
    notebook.cells.pop()
    pictures = FOLDER / name
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir()
    page.write_text("\n".join([*markdown(notebook, pictures), f"<!-- {digest} -->", ""]), "utf-8")
    nbformat.write(notebook, page.with_suffix(".ipynb"))
    return name, time.perf_counter() - start


def fingerprint(source: Path) -> str:
    """Return a digest of all that a tutorial's output comes from."""
    files = [source, RECORD, Path(__file__), *ROOT.glob("src/**/*.py"), *ROOT.glob("edge/src/**/*.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files) if path.is_file())).hexdigest()[:16]


def execute(notebook: Any) -> None:
    """Run a notebook in a kernel of this Python, in a folder of its own; its outputs are put into it."""
    with tempfile.TemporaryDirectory() as folder:
        about = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=MOST_SECONDS, kernel_name="python3", resources=about).execute()


def record(name: str, data: Path) -> None:
    """Execute a tutorial on CIFAR-10 and put its figures, machine and time into `RECORD`."""
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    wanted = ", ".join(f"{title!r}: {expression}" for title, expression in FIGURES[name].items())
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({{{wanted}}}))"))
    os.environ["SPLITVEIL_TUTORIAL_DATA"] = str(data)
    start = time.perf_counter()
    execute(notebook)
    figures = json.loads(notebook.cells[-1].outputs[0].text)
    done = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
    done[name] = {
        "figures": figures,
        "seconds": round(time.perf_counter() - start),
        "command": f"python benchmarks/tutorials.py --data data/cifar10 {name}",
        "machine": f"{os.cpu_count()} cores of an {processor()}, {os.environ['OMP_NUM_THREADS']} of them used",
    }
    RECORD.write_text(json.dumps(done, indent=2, sort_keys=True) + "\n", "utf-8")


def processor() -> str:
    """Return the name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def on_cifar10(name: str) -> str:
    """Return what was found on CIFAR-10, as Markdown."""
    done = json.loads(RECORD.read_text("utf-8")).get(name) if RECORD.is_file() else None
    if done is None:
        return "Set `SPLITVEIL_TUTORIAL_DATA` to the folder with CIFAR-10, and every cell uses it."
    rows = [f"| {title} | {value} |" for title, value in done["figures"].items()]
    told = (
        f"Every cell of this page was run once by hand on CIFAR-10, by `{done['command']}`: one training, one seed, "
        f"{done['seconds'] / 60:.0f} minutes on {done['machine']}. Brackets are 95 % intervals."
    )
    return "\n".join([told, "", "| figure | CIFAR-10 |", "|---|---|", *rows])


def markdown(notebook: Any, pictures: Path) -> Iterator[str]:
    """Yield the parts of a notebook's page; pictures are written into their folder."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield cell.source + "\n"
            continue
        lines = cell.source.splitlines()
        if lines and lines[0].startswith("!"):
            yield fenced(cell.source[1:], "bash")
        else:
            yield fenced(cell.source, "python")
        yield from outputs(cell, pictures)


def outputs(cell: Any, pictures: Path) -> Iterator[str]:
    """Yield the outputs of a cell: text that belongs together in one block, and pictures."""
    text = ""
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            path = pictures / f"{len(list(pictures.iterdir())) + 1}.png"
            path.write_bytes(base64.b64decode(data["image/png"]))
            yield f"![the output of the cell above]({pictures.name}/{path.name})\n"
        elif "text/html" not in data or not data.get("text/plain", "").startswith("<"):  # else a bar of progress
            text += output.get("text", "") or data.get("text/plain", "") + "\n"
    if text.strip():
        yield fenced(COLORS.sub("", text).rstrip(), "text")


def fenced(text: str, kind: str) -> str:
    """Return a block of code."""
    return f"```{kind}\n{text}\n```\n"


if __name__ == "__main__":
    main()
