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
import textwrap
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
WIDTH = 100
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
    "read_a_card": {
        "verdict": "card['verdict']['level']",
        "accuracy on test images": "interval(card['accuracy'])",
        "error of the best attacker": "card['best_attacker']['name'] + ': ' + interval(card['best_attacker']['mse'])",
        "way to the mean image of the true class": "interval(card['reference']['share_of_ceiling'])",
        "recognized by a classifier (originals)": (
            "interval(card['seen']['share']) + ' (' + interval(card['judge']['recognized']) + ')'"
        ),
        "the right photo among 1,000": (
            "[interval(one['interval']) for one in card['bounds'] if 'photo among 1,000,' in one['about']][0]"
        ),
        "flags": "len(card['flags'])",
        "requirements of the policy that are not met": (
            "', '.join(line['requirement'] for line in card['policy']['lines'] if not line['met'])"
        ),
        "images: of the attacker, under attack": (
            'f\'{card["attacker"]["images"]:,}, {card["attacker"]["attacked"]:,}\''
        ),
    },
    "from_a_run_to_a_service": {
        "bytes of a picture; of its wire": "f'{pictures[0].nbytes:,}; {first[0].nbytes:,}'",
        "error of the codec, in deviations of the noise": "format(wire['wire']['error_over_sigma'], '.2f')",
        "accuracy in PyTorch": "interval(wire['measured']['accuracy_torch'])",
        "accuracy of the bundle − that, points": "interval(wire['measured']['difference'], 100)",
        "error of the linear attack on what is sent": "interval(wire['measured']['linear_mse']['coded'])",
        "its error on the 8 pictures, with 1 and with 32 wires": "f'{errors[0]:.4f}; {errors[1]:.4f}'",
        "a picture that is sent again has the same answer; with remember=0": (
            "f'{np.array_equal(one.logits, two.logits)}; {np.array_equal(one.logits, three.logits)}'"
        ),
    },
}
"""Tutorial -> what its table of CIFAR-10 shows -> an expression in its last names."""
INTERVAL = '''
def interval(value, factor=1):
    """Return a mean with its interval, as a record has it."""
    from splitveil.statistics.intervals import Interval

    found = Interval.from_dict(value)
    return str(Interval(factor * found.mean, factor * found.lo, factor * found.hi))
'''
INSTEAD: dict[str, dict[str, str]] = {
    "read_a_card": {
        "from PIL import Image": "import shutil\n"
        "for run, name in (('none', 'plain'), ('hardened', 'defended')):\n"
        "    shutil.copytree(Path('{runs}') / run, Path('runs') / name)",
        "!splitveil train": "",
        "!splitveil audit runs/defended --against": "!splitveil audit runs/defended --against runs/plain --root {data}"
        " $(test -f policy.yaml && echo --policy policy.yaml)",
    },
    "from_a_run_to_a_service": {
        "from PIL import Image": "from PIL import Image\nfrom splitveil.data import load\n"
        "test = load('cifar10', root='{data}').test\n"
        "for digit in range(8):\n"
        "    Path('digits', str(digit)).mkdir(parents=True)\n"
        "    place = int((test.labels == digit).nonzero()[0])\n"
        "    Image.fromarray(test.images[place].permute(1, 2, 0).numpy()).save(f'digits/{{digit}}/0.png')",
        "!splitveil train": "",
        "!splitveil export": "!splitveil export {runs}/hardened --root {data} --out bundle --codec uint4",
    },
}
"""Tutorial -> start of a cell -> what stands there when it is run on CIFAR-10, whose trainings take an hour."""
TRAINED = (
    "a network that was trained before: VGG-11 with 85.1 % of the test images ([recipes](../recipes.md)), "
    "hardened as [described](../harden.md#what-it-gave)"
)
WITH = {
    "protect_my_network": "one training of each model and one seed",
    "attack_a_model": "one training and one seed",
    "read_a_card": f"{TRAINED}, against the same without the hardening; the full suite, whose attacks had been made "
    "before, all bounds, and the classifier",
    "from_a_run_to_a_service": TRAINED,
}
"""Tutorial -> what it was run with on CIFAR-10."""
CLAIMS: dict[str, list[str]] = {
    "protect_my_network": [
        "linear['stage1'].mse < linear['stage2'].mse < linear['narrow'].mse < linear['narrow'].baseline_mse",
        "0.8 < linear['stage3'].mse / linear['narrow'].mse < 1.2",
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
        "hasty.flags and hasty.mse > 2 * hasty.baseline_mse",
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
    parser.add_argument("--runs", type=Path, help="folder with runs on CIFAR-10: none, and hardened, which came of it")
    given = parser.parse_args()
    os.environ |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.data:
        for name in given.names or NAMES:
            record(name, given.data.resolve(), given.runs and given.runs.resolve())
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


def record(name: str, data: Path, runs: Path | None) -> None:
    """Execute a tutorial on CIFAR-10 and put its figures, machine and time into `RECORD`."""
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    for start, other in INSTEAD.get(name, {}).items():
        found = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.startswith(start)]
        for cell in found:
            cell.source = other.format(runs=runs, data=data)
        if runs is None or not found:
            raise SystemExit(f"{name} needs --runs, and a cell that starts with {start!r}")
    wanted = ", ".join(f"{title!r}: {expression}" for title, expression in FIGURES[name].items())
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json\n{INTERVAL}\nprint(json.dumps({{{wanted}}}))"))
    os.environ["SPLITVEIL_TUTORIAL_DATA"] = str(data)
    start = time.perf_counter()
    execute(notebook)
    figures = json.loads(notebook.cells[-1].outputs[0].text)
    done = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
    done["command"] = "python benchmarks/tutorials.py --data data/cifar10 --runs runs"
    done[name] = {
        "figures": figures,
        "seconds": round(time.perf_counter() - start),
        "command": f"python benchmarks/tutorials.py --data data/cifar10{' --runs runs' * (name in INSTEAD)} {name}",
        "machine": f"{os.cpu_count()} cores of an {processor()}{' beside other work' * (os.getloadavg()[1] > 1.5)}",
    }
    RECORD.write_text(json.dumps(done, indent=2) + "\n", "utf-8")


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
    rows = [f"| {title} | {done['figures'][title]} |" for title in FIGURES[name]]
    cells = "Every cell of this page" + " but those that train" * (name in INSTEAD)
    told = (
        f"{cells} was run once by hand on CIFAR-10, with {WITH.get(name, 'one seed')}. It took "
        f"{max(1, round(done['seconds'] / 60))} minutes on {done['machine']} (`{done['command']}`, "
        "[record](../../benchmarks/tutorials.json)). Brackets are 95 % intervals over the images."
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
    """Yield the outputs of a cell in their order: text that belongs together in one block, and pictures."""
    text = ""
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            yield from shown(text)
            text = ""
            path = pictures / f"{len(list(pictures.iterdir())) + 1}.png"
            path.write_bytes(base64.b64decode(data["image/png"]))
            yield f"![what the code above draws]({pictures.name}/{path.name})\n"
        elif "text/html" not in data or not data.get("text/plain", "").startswith("<"):  # else a bar of progress
            text += output.get("text", "") or data.get("text/plain", "") + "\n"
    yield from shown(text)


def shown(text: str) -> Iterator[str]:
    """Yield a block of text, unless it is empty."""
    lines = COLORS.sub("", text).strip("\n").splitlines()
    if lines:
        yield fenced("\n".join(map(wrapped, lines)), "text")


def wrapped(line: str) -> str:
    """Return a line of prose in lines that a page shows without scrolling; tables stay as they are."""
    return line.rstrip() if len(line) <= WIDTH or "  " in line.strip() else textwrap.fill(line, WIDTH)


def fenced(text: str, kind: str) -> str:
    """Return a block of code."""
    return f"```{kind}\n{text}\n```\n"


if __name__ == "__main__":
    main()
