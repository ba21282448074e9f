"""The cuts of one network at equal accuracy, small enough for two cores.

    python benchmarks/cuts.py --root data/cifar10 --out cuts [--resume]

ResNet-20 on 10,000 training images of CIFAR-10, 6 epochs of the fast recipe, seed 0; the stem, and the first and last
block of each stage. Tails are retrained on 1,000 images; all else is as in `splitveil audit NETWORK --layers`. One
training and one seed: the order of the cuts is that of this network. Copies the record to benchmarks/cuts.json and
the picture to docs/cuts.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from splitveil.audit.cuts import FILE, PICTURE, Terms
from splitveil.cli._cuts import show_cuts
from splitveil.storage.files import write_json

HERE = Path(__file__).parent
NETWORK, LAYERS = "resnet20", "1,2,4,5,7,8,10"


def main() -> None:
    """Audit the cuts and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    size = {"epochs": 6, "train_size": 10_000}
    terms = Terms(tail_images=1000)
    show_cuts(NETWORK, LAYERS, out=given.out, data="cifar10", root=given.root, resume=given.resume, terms=terms, **size)
    record = json.loads((given.out / FILE).read_text("utf-8"))
    record["settings"].pop("root")  # where the images are is nobody's business
    write_json(HERE / "cuts.json", record)
    shutil.copyfile(given.out / PICTURE, HERE.parent / "docs" / "cuts.png")


if __name__ == "__main__":
    main()
