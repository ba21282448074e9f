"""The published tables, and which cells of ours stand beside their rows.

Source: "Theoretical Insights in Model Inversion Robustness and Conditional Entropy Maximization for Collaborative
Inference Systems", CVPR 2025 (arXiv 2503.00383); the figures are in ``published/rows.csv`` (accuracies in percent, mean
squared errors in units of 1e-4 for pixels in [0, 1], each without and with CEM), the settings of the image sets in
``published/sets.csv``. Settings of all rows: σ = 0.025 (more in the rows "Noise_"), wire of 8 channels, 3n mixture
components; "with CEM" is λ = 16. *train_time*: the attacker owns the training set and inverts the test set;
*inference_time*: it owns 90 % of the test set and inverts the rest. The published accuracy is that of the epoch that
was best on the test set; ours is chosen on held-out training images.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ..legacy.specs import nopeek_weight
from ..recipe import Recipe
from ..statistics.evidence import combined
from ..statistics.intervals import Interval
from .groups import ComparisonGroup, Configuration, same
from .record_types import CEM, NOISE, Record, cem_weight, noise_sigma, stack_of

WEIGHT, SIGMA, CHANNELS = 16, 0.025, 8
ATTACKS, PROTOCOLS = ("decoder", "gan"), ("train_time", "inference_time")
DECODER_NETWORK = "res_normN8C64"
NO_DEFENSE = "No defense"
RECIPE: dict[str, Any] = {"batch_size": 128, "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
REST = Recipe.model_validate({}).model_dump(
    mode="json",
    exclude={*RECIPE, "recipe", "epochs", "precision", "devices", "seed", "crop_padding", "flip", "matrix_lr"},
)
"""What else a recipe says of the training; crop and flip are those of the image set."""
BOTTLENECK: dict[str, Any] = {"stride": 1, "kernel": 3, "relu": False}
"""The bottleneck of the published tables, beside its channels."""
ATTACK_BATCH = {"decoder": 256, "gan": 128}
STRENGTHS = {"nopeek": ("weight", 0.3), "adversarial": ("weight", 0.3), "dropout": ("ratio", 0.2)}
"""Defense -> its first parameter and what the published scripts give it on CIFAR-10."""
METHODS: dict[frozenset[str], tuple[str, str]] = {
    # Our defenses beside gaussian and cem -> the row at the published noise, the row with more noise.
    frozenset(): ("Bottleneck", ""),
    frozenset({"nopeek"}): ("DistCorr", "Noise_Nopeek"),
    frozenset({"dropout"}): ("Dropout", ""),
    frozenset({"patrol", "adversarial"}): ("PATROL", ""),
    frozenset({"adversarial"}): ("ResSFL", "Noise_ARL"),
}


@dataclass(frozen=True)
class Pair:
    """A published figure without and with CEM; NaN where it was not published."""

    without: float
    cem: float

    @classmethod
    def read(cls, line: Mapping[str, str], column: str, unit: float) -> Pair:
        """Return the two figures of a column, times ``unit``."""
        return cls(*(float(line[name] or math.nan) * unit for name in (column, f"{column}_cem")))


@dataclass(frozen=True)
class Row:
    """One method. ``mse``: by (attack, protocol), in squared pixel range; ``accuracy``: a share."""

    method: str
    accuracy: Pair
    mse: dict[tuple[str, str], Pair]


@dataclass(frozen=True)
class Published:
    """The table of one image set.

    Attributes:
        arch, cut: the network and where it is cut, as we name them.
        epochs, train_images, test_images: of the published training; 0 where they are not known.
        rows: by method; the one without bottleneck and defense where it was published.
        attack_epochs: of each attack.
    """

    data: str
    title: str
    arch: str
    cut: int
    epochs: int
    train_images: int
    test_images: int
    rows: dict[str, Row]
    attack_epochs: dict[str, int]

    def owned(self, protocol: str) -> tuple[int, int]:
        """Images that the attacker owns and inverts; 0 where the protocol is none of the published ones."""
        given = self.test_images - self.test_images * 9 // 10
        known = {
            "train_time": (self.train_images, self.test_images),
            "inference_time": (self.test_images - given, given),
        }
        return known.get(protocol, (0, 0))


def _tables() -> dict[str, Published]:
    folder = files("splitveil.results").joinpath("published")
    sets, lines = (
        list(csv.DictReader(folder.joinpath(f"{name}.csv").read_text("utf-8").splitlines()))
        for name in ("sets", "rows")
    )
    rows: dict[str, dict[str, Row]] = {}
    for line in lines:
        mse = {(a, p): Pair.read(line, f"{a}.{p}", 1e-4) for a in ATTACKS for p in PROTOCOLS}
        row = Row(line["method"], Pair.read(line, "accuracy", 0.01), mse)
        rows.setdefault(line["data"], {})[row.method] = row
    numbers = ("cut", "epochs", "train_images", "test_images")
    return {
        line["data"]: Published(
            data=line["data"],
            title=line["title"],
            arch=line["arch"],
            **{key: int(line[key]) for key in numbers},
            rows=rows[line["data"]],
            attack_epochs={attack: int(line[f"{attack}_epochs"]) for attack in ATTACKS},
        )
        for line in sets
    }


TABLES = _tables()
"""By image set."""


def method(config: Mapping[str, Any]) -> str | None:
    """Return the published row that a configuration is of, or None.

    >>> stack = [{"gaussian": {"sigma": 0.025}}, {"nopeek": {"weight": 0.5}}, {"cem": {"weight": 16}}]
    >>> method({"data": "cifar10", "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8, "defense": stack})
    'DistCorr'
    """
    published, defenses = TABLES.get(config["data"]), dict(stack_of(config))
    if published is None or (config["arch"], config["cut"]) != (published.arch, published.cut):
        return None
    channels = defenses.get("bottleneck", {}).get("channels", config["bottleneck"])
    if not defenses and channels is None:
        return NO_DEFENSE if NO_DEFENSE in published.rows else None
    if channels != CHANNELS or cem_weight(config) not in (0, WEIGHT):
        return None
    usual, noisy = METHODS.get(frozenset(defenses.keys() - {NOISE, CEM, "bottleneck"}), ("", ""))
    sigma = noise_sigma(config)
    return (usual if sigma == SIGMA else noisy if sigma > SIGMA else "") or None


def published_strength(defense: str, data: str) -> float:
    """Return the strength of a defense behind the published rows of an image set, to which scripts give one for all.

    >>> published_strength("nopeek", "cifar10"), published_strength("nopeek", "tinyimagenet")
    (0.3, 0.03)
    """
    strength = STRENGTHS[defense][1]
    return nopeek_weight(strength, data) if defense == "nopeek" else strength


def attack_of(record: Record, name: str) -> str | None:
    """Label of the record's attack that is the published ``decoder`` or ``gan``, whatever its number of epochs."""
    for label, attack in record.attacks.items():
        ours, parameters = attack.spec
        if ours == name and parameters.get("network") == DECODER_NETWORK:
            return label
    return None


@dataclass(frozen=True)
class Figure:
    """A published figure and ours: shares for accuracy, whose ``attack`` is empty, else squared pixel range."""

    attack: str
    published: float
    ours: Interval

    @property
    def change(self) -> float:
        """Ours minus published; of errors relative to the published one."""
        change = self.ours.mean - self.published
        return change / self.published if self.attack else change


@dataclass(frozen=True)
class Line:
    """A published row, without or with CEM, and a configuration of ours that is of it."""

    method: str
    configuration: Configuration
    figures: tuple[Figure, ...]


def beside_published(group: ComparisonGroup) -> list[Line]:
    """Our configurations that are rows of the published table, in its order; none where nothing matches."""
    found: list[tuple[int, Line]] = []
    for one in group.configurations:
        config = one.records[0].config
        if name := method(config):
            rows = TABLES[config["data"]].rows
            place, shown = list(rows).index(name), f"{name} + CEM" if one.cem else name
            if figures := _figures(rows[name], one):
                found.append((2 * place + bool(one.cem), Line(shown, one, figures)))
    return [line for _, line in sorted(found, key=lambda pair: pair[0])]


def _figures(row: Row, one: Configuration) -> tuple[Figure, ...]:
    def published(pair: Pair) -> float:
        return pair.cem if one.cem else pair.without

    figures, shared = [], same(one.records, "images_digest")
    for (attack, protocol), pair in row.mse.items():
        labels = [attack_of(record, attack) for record in one.records]
        ours = [record.attacks[label].mse for record, label in zip(one.records, labels, strict=True) if label]
        if protocol == one.records[0].protocol and len(ours) == len(one.records):
            figures.append(Figure(attack, published(pair), combined(ours, 0, shared=shared)))
    return (Figure("", published(row.accuracy), one.accuracy), *figures) if figures else ()


def deviations(records: Sequence[Record]) -> list[str]:
    """In which settings cells of one image set differ from the published ones, as lines for a reader."""
    published = TABLES[records[0].data]
    lines = []

    def compare(what: str, values: Iterable[float | None], theirs: float) -> None:
        ours = sorted({theirs if value is None else value for value in values})
        if theirs and ours and ours != [theirs]:
            lines.append(f"{' or '.join(f'{value:,}' for value in ours)} {what} (published {theirs:,})")

    configs = [record.config for record in records]
    defenses = [item for record in records for item in record.stack]
    compare("epochs of training", (config["epochs"] for config in configs), published.epochs)
    compare("training images", (config.get("train_size") for config in configs), published.train_images)
    compare("test images", (config.get("test_size") for config in configs), published.test_images)
    for key, value in RECIPE.items():
        compare(f"as {key}", (config[key] for config in configs), value)
    for key, value in REST.items():
        if ours := sorted({str(config.get(key, value)) for config in configs} - {str(value)}):
            lines.append(f"{' or '.join(ours)} as {key} (published {value})")
    bottlenecks = [_bottleneck(config) for config in configs]
    for key, value in BOTTLENECK.items():
        if ours := sorted({str(found.get(key, value)) for found in bottlenecks} - {str(value)}):
            lines.append(f"{' or '.join(ours)} as bottleneck_{key} (published {value})")
    for name, (parameter, _) in STRENGTHS.items():
        ours = (parameters[parameter] for found, parameters in defenses if found == name)
        compare(f"as {parameter} of {name}", ours, published_strength(name, published.data))
    used = {name: _attacks(records, name) for name in ATTACKS}
    for name, epochs in published.attack_epochs.items():
        compare(f"epochs of the {name} attack", (attack.get("epochs") for attack in used[name]), epochs)
        batches = (attack.get("batch_size") for attack in used[name])
        compare(f"images in a batch of the {name} attack", batches, ATTACK_BATCH[name])
    if any(attack.get("critic") != "published" for attack in used["gan"]):
        lines.append("the gan attack’s critic and rates are ours, not the published ones")
    owned, given = published.owned(records[0].protocol)
    compare("images owned by the attacker", (record.attacker_size for record in records), owned)
    compare("attacked images", (record.attacked for record in records), given)
    cems = [parameters for name, parameters in defenses if name == CEM and float(parameters["weight"])]
    if any(parameters["loss"] == "bound" for parameters in cems):
        lines.append("CEM’s loss is the bound, not the published one")
    if schedules := {parameters["schedule"] for parameters in cems} - {"published"}:
        lines.append(f"CEM’s weight over the epochs is {' or '.join(sorted(schedules))}, not as published")
    return lines


def _bottleneck(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of a configuration's bottleneck, which is a defense or a setting; none without one."""
    settings = {key: config[f"bottleneck_{key}"] for key in BOTTLENECK if f"bottleneck_{key}" in config}
    return dict(stack_of(config)).get("bottleneck", settings if config["bottleneck"] else {})


def _attacks(records: Iterable[Record], name: str) -> list[dict[str, Any]]:
    """Parameters of the published attack in those records that have it."""
    return [record.attacks[label].spec[1] for record in records if (label := attack_of(record, name))]
