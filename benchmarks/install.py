"""What the wheel costs to install and to import, and whether what was built works without the checkout.

    make dist && python benchmarks/install.py [--pythons 3.11 3.12 3.13] [--demo]

For each Python the wheels of dist/ are installed by uv into a new virtual environment, with the versions of
constraints.txt, and looked at from another folder:
1. megabytes of files beside PyTorch and what it alone needs (the packages of a GPU, the compiler), by distribution;
2. processor time of `import splitveil`, of `splitveil --help` and of PyTorch alone, the median of --repeats processes;
3. the Python lines of docs/quickstart.ipynb are run; with --demo, `splitveil demo` too.
Writes benchmarks/install.json. A Python that is not there is left out, and named.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from splitveil import runs
from splitveil.storage.files import write_json

ROOT = Path(__file__).parents[1]
MB = 10**6
PYTHONS = ("3.11", "3.12", "3.13")
UV = (sys.executable, "-m", "uv", "--quiet", "--no-python-downloads")
SIZES = """
import importlib.metadata, json, sys
from packaging.requirements import Requirement
found, needs = {}, {}
for one in importlib.metadata.distributions():
    name = one.metadata["Name"].lower().replace("_", "-")
    paths = [one.locate_file(path) for path in one.files or ()]
    found[name] = sum(path.stat().st_size for path in paths if path.is_file())
    wanted = map(Requirement, one.requires or ())
    wanted = [need for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    needs[name] = [need.name.lower().replace("_", "-") for need in wanted]
def closure(name, without=()):
    seen, todo = set(), [name]
    while todo:
        one = todo.pop()
        if one in seen or one not in found or one in without:
            continue
        seen.add(one)
        todo += needs[one]
    return seen
beside = closure("splitveil", {"torch"})
print(json.dumps({name: found[name] for name in sorted(beside, key=found.get, reverse=True)}))
"""
IMPORT = (
    "import resource; {what}; used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime)"
)


def said(*command: Any, cwd: Path | None = None) -> str:
    """Return the output of a command that sees no package of this checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment = {**kept, "OMP_NUM_THREADS": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=cwd)
    return done.stdout


def cpu(python: Path, what: str, repeats: int, cwd: Path) -> float:
    """Return the seconds of processor time of a statement, start of Python included."""
    return statistics.median(float(said(python, "-c", IMPORT.format(what=what), cwd=cwd)) for _ in range(repeats))


def notebook(python: Path, folder: Path) -> float:
    """Run the code of the notebook; return its wall time in seconds."""
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text("utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (folder / "quickstart.py").write_text("import matplotlib\nmatplotlib.use('agg')\n" + code, "utf-8")
    began = time.perf_counter()
    said(python, "quickstart.py", cwd=folder)
    return time.perf_counter() - began


def one(name: str, wheels: list[Path], scratch: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Install for one Python and look."""
    venv = scratch / "venv"
    said(*UV, "venv", "--python", name, venv)
    python = venv / "bin" / "python"
    said(*UV, "pip", "install", "--python", python, "-c", ROOT / "constraints.txt", "packaging", *wheels)
    where = said(python, "-c", "import splitveil; print(splitveil.__file__)", cwd=scratch)
    assert Path(where.strip()).is_relative_to(venv), where
    sizes = json.loads(said(python, "-c", SIZES, cwd=scratch))
    for what in ("import splitveil", "import torch"):  # reads the files from the disk for the first time
        said(python, "-c", what, cwd=scratch)
    found: dict[str, Any] = {
        "python": said(python, "--version").split()[1],
        "beside_torch_mb": sum(sizes.values()) / MB,
        "largest_mb": {package: size / MB for package, size in list(sizes.items())[:12]},
        "cpu_seconds": {
            "python": cpu(python, "pass", args.repeats, scratch),
            "import torch": cpu(python, "import torch", args.repeats, scratch),
            "import splitveil": cpu(python, "import splitveil", args.repeats, scratch),
            "import splitveil.cli": cpu(python, "import splitveil.cli", args.repeats, scratch),
        },
        "notebook_seconds": notebook(python, scratch),
    }
    if args.demo:
        began = time.perf_counter()
        said(venv / "bin" / "splitveil", "demo", "--out", "demo", cwd=scratch)
        assert (scratch / "demo" / "report.html").is_file()
        found["demo_seconds"] = time.perf_counter() - began
    return found


def main() -> None:
    """Install for each Python, print, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", default=PYTHONS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--demo", action="store_true")
    args = parser.parse_args()
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if not wheels:
        parser.error("dist/ holds no wheel; run `make dist` first")
    found, missing = {}, []
    for name in args.pythons:
        if subprocess.run([*UV, "python", "find", name], stdout=subprocess.DEVNULL).returncode:
            missing.append(name)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            found[name] = one(name, wheels, Path(scratch), args)
        print(name, json.dumps(found[name], indent=2), flush=True)
    record = {
        "command": f"make dist && python benchmarks/install.py{' --demo' if args.demo else ''}",
        "environment": runs.environment(),
        "wheels": {path.name: path.stat().st_size / MB for path in wheels},
        "installed": found,
        "missing": missing,
    }
    write_json(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    main()
