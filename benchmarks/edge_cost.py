"""What the edge client costs a device: megabytes installed, import, memory, and processor time for an image.

    python benchmarks/edge_cost.py BUNDLE [--images 500] [--repeats 5]

The package is installed by pip into a new virtual environment, with the versions of constraints.txt; only what that
added is counted, with compiled modules. Times are those of the processor, the median of the repeats, each in a new
process. Writes benchmarks/edge_cost.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from splitveil import runs
from splitveil.storage.files import write_json

ROOT = Path(__file__).parents[1]
MB = 10**6
IMPORT = """
import resource, sys
before = resource.getrusage(resource.RUSAGE_SELF)
{what}
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""
MEMORY = """
import sys
import splitveil_edge
from splitveil_edge import bundle, encode, measure
wires = encode.Wires(bundle.read(sys.argv[1]), 256)
for picture in measure.random_images(int(sys.argv[2]), wires._encoder.device.image):
    wires.of(picture[None])
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmRSS")))
"""
IMPORTS = {
    "package": "import splitveil_edge",
    "package_and_onnxruntime": "import splitveil_edge, onnxruntime",
    "numpy_and_onnxruntime": "import numpy, onnxruntime",
}


def installed(folder: Path) -> dict[str, int]:
    """Return the bytes of each file below a folder, each file once."""
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def said(*command: Any) -> str:
    """Return the output of a command, which sees no other package."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment = {**kept, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def main() -> None:
    """Install, measure, print, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="BUNDLE/device")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        venv = Path(scratch) / "venv"
        said(sys.executable, "-m", "venv", venv)
        python = venv / "bin/python"
        before = installed(venv)
        said(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", ROOT / "edge")
        files = {name: size for name, size in installed(venv).items() if name not in before}
        packages = json.loads(said(python, "-m", "pip", "list", "--format", "json"))
        said(python, "-c", IMPORTS["package_and_onnxruntime"])  # reads the files from the disk for the first time
        imports = {
            name: statistics.median(float(said(python, "-c", IMPORT.format(what=what))) for _ in range(args.repeats))
            for name, what in IMPORTS.items()
        }
        command = venv / "bin/splitveil-edge"
        costs = [
            json.loads(said(command, "bench", args.bundle, "--images", args.images, "--json"))
            for _ in range(args.repeats)
        ]
        memory = int(said(python, "-c", MEMORY, args.bundle.resolve(), args.images)) * 1024
    record = {
        "installed_mb": sum(files.values()) / MB,
        "packages": {each["name"]: each["version"] for each in packages if each["name"] not in ("pip", "setuptools")},
        "import_cpu_seconds": imports,
        "resident_mb": memory / MB,
        "image": {key: statistics.median(cost[key] for cost in costs) for key in costs[0]},
        "repeats": args.repeats,
        "machine": runs.environment(),
        "command": f"python benchmarks/edge_cost.py BUNDLE --images {args.images} --repeats {args.repeats}",
    }
    print(json.dumps({key: value for key, value in record.items() if key != "machine"}, indent=2))
    write_json(args.out, record)


if __name__ == "__main__":
    main()
