"""The published tables as data, and which cells of ours stand beside their rows.

Source: "Theoretical Insights in Model Inversion Robustness and Conditional Entropy Maximization for Collaborative
Inference Systems", CVPR 2025 (arXiv 2503.00383). Settings of all rows: σ = 0.025 (more in the rows "Noise_"), wire of
8 channels, 3n mixture components; "with CEM" is λ = 16. Errors are mean squared errors over the attacked images, for
pixels in [0, 1]. *train*: the attacker owns the training set and inverts the test set (protocol ``train_time``);
*infer*: it owns 90 % of the test set and inverts the rest (``inference_time``). The published accuracy is that of the
epoch that was best on the test set; ours is chosen on held-out training images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..legacy.specs import nopeek_weight
from .groups import cem_weight, noise

WEIGHT, SIGMA, CHANNELS = 16, 0.025, 8
COLUMNS = (
    ("decoder", "train_time"),
    ("decoder", "inference_time"),
    ("gan", "train_time"),
    ("gan", "inference_time"),
)
"""(attack, protocol) of the four columns of errors."""
DECODER_NETWORK = "res_normN8C64"
NO_DEFENSE = "No defense"


@dataclass(frozen=True)
class Pair:
    """A published figure without and with CEM."""

    without: float
    cem: float


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
        epochs, train_images, test_images: of the published training.
        undefended: without bottleneck and defense, where published.
        attack_epochs: of each attack.
        ssim, psnr: average under the decoder attack, over the rows.
    """

    data: str
    title: str
    arch: str
    cut: int
    epochs: int
    train_images: int
    test_images: int
    rows: tuple[Row, ...]
    undefended: Row | None
    ssim: Pair
    psnr: Pair
    attack_epochs: dict[str, int]

    def row(self, method: str) -> Row | None:
        """The row of a method, that without defense too."""
        every = [*self.rows, *([self.undefended] if self.undefended else [])]
        return next((row for row in every if row.method == method), None)


def _rows(text: str) -> tuple[Row, ...]:
    rows = []
    for line in text.strip().splitlines():
        method, *numbers = line.split()
        pairs = [Pair(float(a), float(b)) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
        accuracy, *errors = pairs
        mse = {c: Pair(e.without / 1e4, e.cem / 1e4) for c, e in zip(COLUMNS, errors, strict=True)}
        rows.append(Row(method, Pair(accuracy.without / 100, accuracy.cem / 100), mse))
    return tuple(rows)


def _undefended(accuracy: float, *errors: float) -> Row:
    # Published without CEM only: there is nothing for it to act on.
    mse = {column: Pair(error / 1e4, math.nan) for column, error in zip(COLUMNS, errors, strict=True)}
    return Row(NO_DEFENSE, Pair(accuracy / 100, math.nan), mse)


# Accuracy in %, then MSE in units of 1e-4, each without and with CEM, in the order of COLUMNS.
TABLES: dict[str, Published] = {
    "cifar10": Published(
        *("cifar10", "CIFAR-10, VGG-11", "vgg11_bn_sgm", 4, 240, 50_000, 10_000),
        _rows("""
            Bottleneck   90.87 90.69   36  54   41  58   39  76   45  80
            DistCorr     89.52 89.80   74  90   82  93   79  94   88  96
            Dropout      87.75 87.53   98 129  104 134   99 132  111 142
            PATROL       89.58 89.67  245 304  293 335  257 313  307 347
            ResSFL       89.68 90.11  146 201  240 251  158 229  243 273
            Noise_Nopeek 87.19 87.08  152 174  159 174  156 173  165 178
            Noise_ARL    87.78 87.62  290 330  336 355  304 341  342 363
        """),
        undefended=_undefended(91.86, 13, 14, 14, 16),
        ssim=Pair(0.667, 0.637),
        psnr=Pair(18.39, 17.74),
        attack_epochs={"decoder": 50, "gan": 150},
    ),
    "cifar100": Published(
        *("cifar100", "CIFAR-100, VGG-11", "vgg11_bn_sgm", 4, 240, 50_000, 10_000),
        _rows("""
            Bottleneck   68.43 68.42    7  58    7  59    9  19    8  20
            DistCorr     66.21 66.27   54  74   55  75   23  44   25  45
            Dropout      65.85 65.92   42  60   43  61   16  31   18  32
            PATROL       65.10 65.07  335 419  346 423  196 235  238 253
            ResSFL       66.94 66.96   51  93   52  95   19  43   20  46
            Noise_Nopeek 65.55 65.33   63  83   63  82   37  52   38  52
            Noise_ARL    62.58 62.34  270 373  277 380  143 219  164 236
        """),
        undefended=None,
        ssim=Pair(0.775, 0.706),
        psnr=Pair(21.88, 19.57),
        attack_epochs={"decoder": 50, "gan": 150},
    ),
    "tinyimagenet": Published(
        *("tinyimagenet", "TinyImageNet, ResNet-20", "resnet20_sgm", 5, 120, 100_000, 10_000),
        _rows("""
            Bottleneck   52.77 52.25  107 140  103 136   91 123   92 125
            DistCorr     51.79 51.78  148 195  145 190  126 167  136 168
            Dropout      50.72 50.75  165 188  163 186  148 167  151 172
            PATROL       51.75 51.64  187 211  187 209  168 185  176 189
            ResSFL       51.99 52.07  173 197  172 194  157 180  161 173
            Noise_Nopeek 51.63 52.01  161 183  157 180  147 166  152 167
            Noise_ARL    51.03 50.85  229 281  224 271  204 251  205 253
        """),
        undefended=_undefended(53.73, 25, 22, 20, 21),
        ssim=Pair(0.555, 0.510),
        psnr=Pair(17.93, 17.19),
        attack_epochs={"decoder": 50, "gan": 80},
    ),
    "facescrub": Published(
        *("facescrub", "FaceScrub, VGG-11, 48 × 48", "vgg11_bn_sgm", 4, 240, 0, 0),
        _rows("""
            Bottleneck   85.12 85.00   25  36   25  35   26  38   27  37
            DistCorr     83.42 83.78   38  48   38  47   41  69   41  74
            Dropout      79.30 79.19   52  74   52  74   54  76   57  81
            PATROL       79.18 79.88   99 166  118 185  114 184  137 192
            ResSFL       79.60 79.54   94 128  112 148  111 143  142 161
            Noise_Nopeek 82.06 81.96   52  76   52  75   53  78   56  90
            Noise_ARL    80.14 80.33  122 182  155 211  132 212  158 231
        """),
        undefended=_undefended(86.69, 12, 11, 12, 14),
        ssim=Pair(0.799, 0.760),
        psnr=Pair(21.82, 20.37),
        attack_epochs={"decoder": 50, "gan": 150},
    ),
}
RECIPE: dict[str, Any] = {"batch_size": 128, "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
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


def method(config: dict[str, Any]) -> str | None:
    """The published row that a configuration is of, or None.

    >>> stack = [{"gaussian": {"sigma": 0.025}}, {"nopeek": {"weight": 0.5}}, {"cem": {"weight": 16}}]
    >>> method({"data": "cifar10", "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8, "defense": stack})
    'DistCorr'
    """
    published = TABLES.get(config["data"])
    names = {next(iter(spec)) for spec in config["defense"]}
    channels = next((s["bottleneck"]["channels"] for s in config["defense"] if "bottleneck" in s), config["bottleneck"])
    weight = cem_weight(config)
    if published is None or (config["arch"], config["cut"]) != (published.arch, published.cut):
        return None
    if not names and channels is None:
        return NO_DEFENSE if published.undefended else None
    if channels != CHANNELS or weight not in (0, WEIGHT):
        return None
    usual, noisy = METHODS.get(frozenset(names - {"gaussian", "cem", "bottleneck"}), ("", ""))
    sigma = noise(config)
    return (usual if sigma == SIGMA else noisy if sigma > SIGMA else "") or None


def published_strength(defense: str, data: str) -> float:
    """Weight or ratio of a defense behind the published rows of an image set, to which scripts give one strength.

    >>> published_strength("nopeek", "cifar10"), published_strength("nopeek", "tinyimagenet")
    (0.3, 0.03)
    """
    strength = STRENGTHS[defense][1]
    return nopeek_weight(strength, data) if defense == "nopeek" else strength


def attack_of(record: dict[str, Any], name: str) -> str | None:
    """Label of the record's attack that is the published ``decoder`` or ``gan``, whatever its number of epochs."""
    for label, attack in record["attacks"].items():
        ((ours, parameters),) = attack["attack"].items()
        if ours == name and parameters.get("network") == DECODER_NETWORK:
            return label
    return None


def deviations(records: Iterable[dict[str, Any]]) -> list[str]:
    """In which settings cells of one image set differ from the published ones, as lines for a reader."""
    records = list(records)
    published = TABLES[records[0]["config"]["data"]]
    lines = []

    def compare(what: str, values: Iterable[float | None], theirs: float) -> None:
        ours = sorted({theirs if value is None else value for value in values})
        if theirs and ours and ours != [theirs]:
            lines.append(f"{_numbers(ours)} {what} (published {theirs:,})")

    configs = [record["config"] for record in records]
    compare("epochs of training", (c["epochs"] for c in configs), published.epochs)
    compare("training images", (c.get("train_size") for c in configs), published.train_images)
    for key, value in RECIPE.items():
        compare(f"as {key}", (c[key] for c in configs), value)
    for name, (parameter, _) in STRENGTHS.items():
        value = published_strength(name, published.data)
        specs = [spec[name] for c in configs for spec in c["defense"] if name in spec]
        compare(f"as {parameter} of {name}", (spec[parameter] for spec in specs), value)
    for name, epochs in published.attack_epochs.items():
        used = _attacks(records, name)
        compare(f"epochs of the {name} attack", (attack.get("epochs") for attack in used), epochs)
        compare(f"images in a batch of the {name} attack", (a.get("batch_size") for a in used), ATTACK_BATCH[name])
    if any(attack.get("critic") != "published" for attack in _attacks(records, "gan")):
        lines.append("the gan attack’s critic and rates are ours, not the published ones")
    owned, given = _owned(published, records[0]["protocol"])
    compare("images owned by the attacker", (record["attacker_size"] for record in records), owned)
    compare("attacked images", (record["attacked"] for record in records), given)
    losses = {spec["cem"]["loss"] for c in configs for spec in c["defense"] if "cem" in spec and cem_weight(c)}
    if "bound" in losses:
        lines.append("CEM’s loss is the bound, not the published one")
    schedules = {spec["cem"]["schedule"] for c in configs for spec in c["defense"] if "cem" in spec and cem_weight(c)}
    if schedules - {"published"}:
        lines.append(f"CEM’s weight over the epochs is {' or '.join(sorted(schedules))}, not as published")
    return lines


def _attacks(records: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Parameters of the published attack in those records that have it."""
    labels = [(record["attacks"], attack_of(record, name)) for record in records]
    return [attacks[label]["attack"][name] for attacks, label in labels if label]


def _owned(published: Published, protocol: str) -> tuple[int, int]:
    """Images that the published attacker owns and inverts; 0 where the protocol is none of the published ones."""
    if protocol == "train_time":
        return published.train_images, published.test_images
    if protocol == "inference_time":
        return published.test_images * 9 // 10, published.test_images - published.test_images * 9 // 10
    return 0, 0


def _numbers(values: list[float]) -> str:
    return " or ".join(f"{value:,}" for value in values)
