"""Where to cut a network of one's own: from a module and arrays, without a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .. import api, progress_bars
from ..cutting.layout import Layout
from ..cutting.network import cut_network, run_once
from ..data import Access, Split, to_float
from ..data.protocol import divide, some
from ..errors import UserError, did_you_mean, shown
from ..given import Data, check_images, images_of, network_of, outputs_of
from ..memory import placed
from ..model import SplitModel
from ..nn.copies import copy_of
from ..ranges import Declared, Seed
from ..recipe import precision
from ..storage.files import atomic_write, expanded
from ..zoo import Parts
from . import cuts, cuts_table
from .cuts_picture import plotted
from .equal_noise import Search
from .one_cut import Ground
from .recut import ALL, Cut, Network, worth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_AUGMENTATION: dict[str, Any] = {"crop_padding": 0, "flip": False, "rotate_degrees": 0.0}
FEWEST = 20
"""Images that accuracy, linkage and leakage need at least, and of which a tenth can validate."""
_SEED = cast("Declared", Declared.of(Seed))


@dataclass(frozen=True)
class Cuts:
    """The cuts of one network, measured with the noise that the same loss of accuracy allows at each.

    Attributes:
        record: everything that was measured, as ``cuts.json`` of the command line holds it.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 2))
    >>> x, y = torch.rand(60, 1, 12, 12), torch.arange(60) % 2
    >>> found = compare_cuts(net, (x[:30], y[:30]), learn_from=(x[:40], y[:40]), invert=(x[40:], y[40:]),
    ...     layers=["1"], max_drop=50, decoder_epochs=1, progress=False)
    >>> found.rows[0]["wire"], found.rows[0]["multiply_adds"]
    ([4, 3, 3], 576)
    """

    record: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return what was measured at each cut, in the order in which the layers run.

        ``layer``, ``wire`` (shape), ``bytes``, ``multiply_adds`` and ``parameters`` of the device, ``sigma`` of the
        noise, ``accuracy``, ``linear`` and ``decoder`` (mean squared errors of attackers), each with its 95 % interval,
        ``linkage``, ``leakage`` (nats), and in ``skipped`` the reason of what is None.
        """
        return self.record["rows"]

    @property
    def front(self) -> list[str]:
        """Return the layers that no other cut beats: none costs the device as little and leaves as much error."""
        return self.record["front"]

    @property
    def flags(self) -> list[str]:
        """Return why the figures should not be trusted; an empty list means that no reason was found."""
        return self.record["flags"]

    def plot(self) -> Figure:
        """Draw the attackers' error against the multiply-adds on the device; a notebook shows the figure."""
        return plotted(self.record)

    def picture(self, path: str | Path) -> Path:
        """Draw the attackers' error against the multiply-adds on the device, as a PNG, and return its path.

        Args:
            path: file that is made or replaced.
        """
        path = expanded(path)
        with atomic_write(path) as temporary:
            self.plot().savefig(temporary, format="png")
        return path

    def __repr__(self) -> str:
        table = cuts_table.text(cuts_table.title(self.record), [cuts_table.HEADS, *cuts_table.cells(self.record)])
        missing = [f"not measured: {line}" for line in cuts_table.left_out(self.record)]
        return "\n".join([table, *cuts_table.notes(self.record), *missing, *(f"flag: {flag}" for flag in self.flags)])


def compare_cuts(
    network: nn.Module,
    data: Data,
    *,
    learn_from: Data,
    invert: Data,
    validate: Data | None = None,
    test: Data | None = None,
    layers: str | Sequence[str] = ALL,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: Layout | None = None,
    seed: int = 0,
    progress: bool = True,
    **terms: Any,
) -> Cuts:
    """Compare the cuts of a trained network at equal accuracy: what each costs the device and leaves to attackers.

    At every cut the same Gaussian noise goes on every value of the wire: the most with which the accuracy on
    validation images falls by at most ``max_drop`` points, with a tail that is trained on it (docs/cuts.md).

    Args:
        network: trained; images (B, C, H, W) -> logits (B, classes). It stays as it is.
        data: images and labels that tails learn from.
        learn_from: the attacker's own images.
        invert: images that are reconstructed from their wires.
        validate: images on which accuracy is compared, best of those that the network has not learned from; None: a
            tenth of ``data``, which is left out of the rest.
        test: images for accuracy, linkage and leakage; None: ``invert``.
        layers: names of layers, as ``network.named_modules()`` calls them; "all": those at which a cut is worth it.
        mean: as of `splitveil.split`, a number per channel.
        std: as of `splitveil.split`, a number per channel.
        layout: as of `splitveil.split`, of all these layers.
        seed: of all that is drawn.
        progress: show a bar where there is a terminal, elsewhere a line at most every 30 seconds.
        terms: of `audit.cuts.Terms`: ``max_drop`` (1 point), ``decoder_epochs`` (6), and the most images that are used,
            ``tail_images`` (4,000), ``attacker`` (2,000), ``attacked`` (500) and ``tested`` (2,500).

    Raises:
        UserError: images that do not fit or are too few, a network that is cut already, an unknown layer, a cut that
            more than one tensor crosses, or unknown terms.
    """
    names, seed = _layers(layers), _SEED.checked("seed", seed, 0)
    chosen, net = _terms(terms), copy_of(_uncut(network)).cpu().eval()
    train = images_of(data, "data")
    if validate is None and len(train) < FEWEST:
        raise UserError(
            f"data has {len(train)} images, of which a tenth validates; expected at least {FEWEST}, or give validate"
        )
    example = to_float(train.images[:1])
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
        places = _places(net, names, example, layout)
        cut = partial(_cut, network=net, example=example, about={"mean": mean, "std": std, "layout": layout})
        ground = _ground(cut(places[0].layer), train, (learn_from, invert, validate, test), chosen, seed)
        record: Any = {"network": type(network).__name__, "terms": asdict(chosen), "seed": seed, "rows": []}
        record |= {"cuts": [place.layer for place in places], "before": None, "mean_image": None, "front": []}
        with progress_bars.bars() if progress else nullcontext() as bar:
            cuts.compare(record, cut, places, ground, chosen, _shown(bar))
    return Cuts(record)


def _uncut(network: Any) -> nn.Module:
    """Return the network, which must not be cut yet."""
    if isinstance(found := network_of(network), SplitModel):
        raise UserError("network is a SplitModel, which is cut already; give the network before sv.split")
    return found


def _layers(given: Any) -> list[str]:
    """Return the names of layers that were given."""
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else [given]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise UserError(
            f"layers has {shown(wrong[0])}; expected a name, as network.named_modules() has it, a list of names, or "
            f"{ALL!r}"
        )
    return names


def _shown(bar: progress_bars.Bars | None) -> cuts.Show:
    """Return what shows the steps, in a bar where there is one."""
    if bar is None:
        return lambda *_: None
    task = bar.add_task("cuts", total=None, note="")
    return lambda done, total, what: bar.update(task, completed=done, total=total, note=what)


def _terms(given: dict[str, Any]) -> cuts.Terms:
    names = [field.name for field in fields(cuts.Terms)]
    for name in given:
        if name not in names:
            raise UserError(f"compare_cuts has no setting {name!r}{did_you_mean(name, names) or ';'} expected one of: "
                            f"{', '.join(names)}")  # fmt: skip
    found = cuts.Terms(**given)
    for name, least in (("attacked", 2), ("tested", FEWEST)):
        if getattr(found, name) < least:
            raise UserError(f"{name} is {getattr(found, name)}; expected at least {least} images")
    return found


def _places(net: nn.Module, names: list[str], example: Tensor, layout: Layout | None) -> list[Cut]:
    """Return where the network is cut, in the order in which the layers were named or run."""

    def halves(layer: str) -> Parts:
        return Parts(*cut_network(net, layer, example, None, layout), "channels_first")

    with torch.no_grad():
        run_once(net, example)
    if names == [ALL]:
        names = worth(net, example)
        if not names:
            raise UserError("no layer was found at which the network can be cut; name layers of it: layers=['...']")
    if not names:
        raise UserError("layers is empty; expected names of layers, or 'all'")
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise UserError(f"layers names {twice[0]!r} twice; name each layer once")
    listed = Network(type(net).__name__, halves, example, tuple(names), complete=False)
    return [listed.cut(name) for name in names]


def _cut(layer: str, network: nn.Module, example: Tensor, about: dict[str, Any]) -> SplitModel:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return placed(SplitModel.cut(network, layer, example, **about).eval(), device)


def _ground(
    model: SplitModel, train: Split, given: tuple[Data, Data, Data | None, Data | None], terms: cuts.Terms, seed: int
) -> Ground:
    """Return what is the same at every cut; of more images than the terms allow some are drawn."""
    learn_from, invert, validate, test = given
    protocol = api.protocol_of(model, learn_from, invert, frozenset(Access))
    if validate is None:
        chooses, train = divide(train, max(1, len(train) // 10), torch.Generator().manual_seed(seed))
    else:
        chooses = images_of(validate, "validate")
    tested, name = (protocol.attacker_test, "invert") if test is None else (images_of(test, "test"), "test")
    if len(tested) < FEWEST:
        more = ", or give test" if test is None else ""
        raise UserError(f"{name} has {len(tested)} images, for accuracy and linkage; expected at least {FEWEST}{more}")
    for part, name in ((train, "data"), (chooses, "validate"), (tested, "test")):
        check_images(model, part, name)
        outputs_of(model, part, name)

    def few(images: Split, count: int) -> Split:
        return some(images, count, torch.Generator().manual_seed(seed))

    kept = {
        "attacker_train": few(protocol.attacker_train, terms.attacker),
        "attacker_test": few(protocol.attacker_test, terms.attacked),
    }
    bf16 = precision("auto", model.mean.device) == "bf16-mixed"
    search = Search(few(train, terms.tail_images), chooses, seed, NO_AUGMENTATION, bf16)
    return Ground(
        search, 0.0, type(protocol)(**{**vars(protocol), **kept}), few(tested, terms.tested), seed, terms.decoder_epochs
    )
