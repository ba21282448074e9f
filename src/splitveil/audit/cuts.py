"""Where to cut: one trained network, cut at every layer, with as much noise as the same loss of accuracy allows.

Noise makes cuts comparable only at equal accuracy. At every cut the encoder stays as it is, the same Gaussian noise is
put on every value of the wire, and a tail is retrained on it; the noise is the most with which the accuracy on
validation images falls by no more than `Terms.max_drop` points below that of the network without noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from ..data import ImageSet, Split
from ..data.protocol import Protocol, divide, protocol
from ..errors import UserError
from ..evaluation.floors import mean_image_error
from ..evaluation.reliability import at_chance
from ..hardening.search import noisy_accuracy
from ..memory import placed
from ..model import SplitModel
from ..ranges import Count, checked
from ..recipe import precision
from ..runs import Run, environment
from ..statistics.intervals import binomial_ci
from ..storage import reading
from ..storage.claims import claimed
from ..storage.files import remove_unfinished, write_json
from ..storage.folders import foreign
from ..training import pins
from .cuts_picture import draw, learned, unlearned, worst
from .equal_noise import Search
from .one_cut import UNITS, Ground, measured
from .recut import Cut, Network, network_of

SCHEMA = 1
"""Version of the record."""
FILE, PICTURE, TRAINED = "cuts.json", "cuts.png", "network"
Show = Callable[[int, int, str], None]
"""Called with the steps done, their number, and what is being done."""


@partial(checked, who="cuts")
@dataclass(frozen=True)
class Terms:
    """What is the same at every cut.

    Args:
        max_drop: points of accuracy on the validation images that the noise may cost.
        tail_images: training images on which tails are retrained, at most.
        attacker: images from which attacks learn, at most.
        attacked: images that are reconstructed, at most.
        tested: test images for accuracy, linkage and leakage, at most; two fifths of them are the linkage's gallery.
        decoder_epochs: of the short decoder.
    """

    max_drop: Annotated[float, Field(gt=0, le=100)] = 1.0
    tail_images: Count = 4000
    attacker: Count = 2000
    attacked: Count = 500
    tested: Count = 2500
    decoder_epochs: Count = 6


class _Record(TypedDict):
    """The content of `FILE`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    schema: Literal[1]
    network: str
    weights: str
    settings: dict[str, Any]
    terms: dict[str, Any]
    seed: int
    cuts: list[str]
    images: dict[str, Any]
    environment: dict[str, Any]
    before: reading.Number | None
    mean_image: reading.Number | None
    front: list[str]
    flags: NotRequired[list[str]]  # records of earlier versions have none
    rows: Annotated[list[dict[str, Any]], Field(max_length=10_000)]


_RECORD = TypeAdapter(_Record)


def audit(
    run: Run, images: ImageSet, layers: str, out: Path, terms: Terms, *, resume: bool = False, show: Show | None = None
) -> dict[str, Any]:
    """Measure the cuts of a trained network, and leave `FILE` and `PICTURE` in a folder.

    The row of each cut is kept when it is done, so that an audit that was stopped goes on with the next one.

    Args:
        run: trained, without a bottleneck; defenses on its wire are left out.
        images: image set of the run.
        layers: "all", or names of layers with commas between them.
        out: folder of the record.
        terms: what is the same at every cut.
        resume: go on with an audit in the folder.
        show: called after each step.

    Returns:
        The record.

    Raises:
        UserError: an unknown layer, a network that cannot be cut elsewhere, images of another run, or a folder that
            holds something else.
    """
    pins.check(run.summary, images, run.path)
    model = run.model(images)
    network = network_of(model, run.settings.arch, images.size)
    places = network.chosen(layers)
    cut = partial(_cut, network=network, model=model, device=_device())
    start = _Record(
        schema=SCHEMA,
        network=network.name,
        weights=run.digest(),
        settings=run.settings.model_dump(mode="json"),
        terms=asdict(terms),
        seed=run.settings.seed,
        cuts=[cut.layer for cut in places],
        images=pins.of(images),
        environment=environment(),
        before=None,
        mean_image=None,
        front=[],
        rows=[],
    )
    with claimed(out, "audit"):
        remove_unfinished(out)
        record = _begun(out, start, resume)
        return _audit(run, cut, places, images, record, terms, out, show or (lambda *_: None))


def _audit(
    run: Run,
    cut: Callable[[str], SplitModel],
    places: list[Cut],
    images: ImageSet,
    record: _Record,
    terms: Terms,
    out: Path,
    show: Show,
) -> dict[str, Any]:
    shown: Any = record

    def keep() -> None:
        write_json(out / FILE, record)

    compare(shown, cut, places, _ground(run, images, terms), terms, show, keep)
    show(1, 1, "")
    draw(shown, out / PICTURE)
    return dict(record)


def compare(
    record: dict[str, Any],
    cut: Callable[[str], SplitModel],
    places: list[Cut],
    ground: Ground,
    terms: Terms,
    show: Show,
    keep: Callable[[], object] = lambda: None,
) -> None:
    """Measure the cuts that a record lacks, and complete it: rows, front and flags.

    Args:
        record: begun, with ``cuts`` and ``rows``; it is changed in place.
        cut: layer -> the network cut there, trained, without a defense.
        places: where it is cut.
        ground: what is the same at every cut; its ``least`` is found here.
        terms: with the accuracy that the noise may cost.
        show: called after each step.
        keep: called when a cut is done, and at the end.
    """
    if record["before"] is None:
        # The function is the same at every cut.
        record["before"] = noisy_accuracy(cut(places[-1].layer), ground.search.validate, ground.seed)
        answered = mean_image_error(ground.given.attacker_train, ground.given.attacker_test)
        record["mean_image"] = float(answered.mean())
    ground = replace(ground, least=record["before"] - terms.max_drop / 100)
    done = {row["layer"] for row in record["rows"]}
    for place in (place for place in places if place.layer not in done):
        bar = _Steps(show, UNITS * len(record["rows"]), UNITS * len(places), place.layer)
        record["rows"].append(measured(place, cut(place.layer), ground, bar.step))
        record["rows"].sort(key=lambda row: record["cuts"].index(row["layer"]))
        record["front"] = front(record["rows"], record["mean_image"])
        keep()
    record["flags"] = _flags(record, ground)
    keep()


class _Steps:
    """The steps of one cut, among those of all."""

    def __init__(self, show: Show, done: int, total: int, layer: str):
        self.show, self.done, self.total, self.layer = show, done, total, layer
        self.step("begins", 0)

    def step(self, what: str, steps: int = 1) -> None:
        self.done += steps
        self.show(self.done, self.total, f"cut {self.layer}: {what}")


def front(rows: list[dict[str, Any]], mean_image: float | None = None) -> list[str]:
    """Return the layers that no other beats: none costs the device as little and leaves attackers as much error.

    Args:
        rows: of the record; those without an attack are left out.
        mean_image: error of always answering the mean image. Cuts at which no attack is shown to beat it are left out
            too: there the attack has learned nothing, and its error says nothing about the cut.

    >>> rows = [{"layer": n, "multiply_adds": m, "linear": {"mean": e}, "decoder": None} for n, m, e in
    ...         (("1", 1, 0.01), ("2", 2, 0.03), ("3", 3, 0.02), ("4", 3, 0.04))]
    >>> front(rows)
    ['1', '2', '4']
    """
    points = [
        (row["multiply_adds"], -error["mean"], row["layer"])
        for row in rows
        if (error := worst(row)) and learned(row, mean_image)
    ]
    found, least = [], 0.0
    for _, error, layer in sorted(points, key=lambda point: point[:2]):
        if not found or error < least:
            found.append(layer)
            least = error
    return found


def _flags(record: dict[str, Any], ground: Ground) -> list[str]:
    """Return why the figures should not be trusted."""
    labels, before = ground.search.validate.labels, record["before"] or 0.0
    accuracy = binomial_ci(round(before * len(labels)), len(labels))
    flags = at_chance(accuracy, labels, "validation images", "where to cut")
    if failed := unlearned(record):
        flags.append(
            f"no attack is shown to beat the mean image at {', '.join(failed)}: it has learned nothing there, which "
            f"says nothing good of the cut; the attacker had {len(ground.given.attacker_train)} images, give it more"
        )
    return flags


def _cut(layer: str, network: Network, model: SplitModel, device: torch.device) -> SplitModel:
    parts = network.halves(layer)
    scale = {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
    cut = SplitModel(parts.encoder, parts.tail, layout=parts.layout, example=network.example, **scale)
    return placed(cut.eval(), device)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _ground(run: Run, images: ImageSet, terms: Terms) -> Ground:
    settings = run.settings
    given = protocol(settings.protocol, images, seed=settings.seed)
    kept = {
        "attacker_train": _some(given.attacker_train, terms.attacker, settings.seed),
        "attacker_test": _some(given.attacker_test, terms.attacked, settings.seed),
    }
    search = Search(
        _some(given.defender_train, terms.tail_images, settings.seed),
        given.utility_val,
        seed=settings.seed,
        augmentation=settings.augmentation,
        bf16=precision(settings.precision, _device()) == "bf16-mixed",
    )
    tested = _some(given.utility_test, terms.tested, settings.seed)
    return Ground(search, 0.0, Protocol(**{**vars(given), **kept}), tested, settings.seed, terms.decoder_epochs)


def _some(images: Split, count: int, seed: int) -> Split:
    return images if count >= len(images) else divide(images, count, torch.Generator().manual_seed(seed))[0]


def check_folder(out: Path, resume: bool) -> None:
    """Refuse a folder that holds something else, or an audit that is not to be gone on with.

    Args:
        out: folder of the record.
        resume: go on with what is there.

    Raises:
        UserError: it may not be used.
    """
    if foreign(out, {FILE, PICTURE, TRAINED}):
        raise UserError(f"{out} exists and holds no audit of cuts; choose an empty or new folder for --out")
    if not resume and any((out / name).exists() for name in (FILE, TRAINED)):
        raise UserError(f"{out} holds an audit already; add --resume to go on with it, or choose another --out")


def _begun(out: Path, start: _Record, resume: bool) -> _Record:
    """Return the record in a folder, or ``start`` where there is none."""
    if not (out / FILE).is_file():
        return start
    kept: _Record = reading.read_json(out / FILE, _RECORD, "choose another --out, and audit again")
    if not resume:
        raise UserError(f"{out} holds an audit already; add --resume to go on with it, or choose another --out")
    names = {"weights": "the network", "cuts": "--layers", "terms": "the settings", "images": "the images"}
    for name, what in names.items():
        if kept[name] != start[name]:
            raise UserError(f"{out} was begun with other values of {what}; repeat them, or choose another --out")
    return kept
