"""Folders of models and results from Python: they hold weights, settings and figures, never code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import torch
from pydantic import Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import TypedDict

from . import __version__, config
from .config import OWN
from .defenses.base import Stack
from .errors import UserError
from .evaluation import evaluate, suites
from .evaluation.evaluate import Outcome
from .evaluation.floors import CLASS_MEAN
from .evaluation.scores import METRICS
from .given import check_model, network_of
from .model import SplitModel
from .outcomes import Report, Result
from .pictures import load_arrays
from .recipe import Recipe
from .runs import (
    Run,
    check_weights,
    environment,
    load_images,
    load_weights,
    parameter_counts,
    save_weights,
    write_summary,
)
from .saved_reports import Reports, check_report, read_reports, write_report
from .statistics.best_attacker import DISTANCE
from .storage import reading
from .storage.claims import claimed
from .storage.files import expanded, within_reach, write_json, write_text
from .storage.folders import foreign

MODEL, WEIGHTS = "model.json", "model.safetensors"
REMEDY = "save it again"


class _Defense(TypedDict):
    name: str
    parameters: dict[str, Any]
    registered: bool


class _Model(TypedDict):
    """The content of `MODEL`: how the halves are made again from a network that is given."""

    splitveil: str
    network: str
    at: str | None
    layout: Literal["channels_first", "channels_last"] | None
    image: Annotated[list[reading.Count], Field(min_length=3, max_length=3)]
    wire: list[reading.Count]
    stacked: bool
    defenses: list[_Defense]
    trained_by: NotRequired[dict[str, Any]]


_KIND = TypeAdapter(_Model)


def save(thing: SplitModel | Result | Report, path: str | Path) -> Path:
    """Write a model, with what attacks achieved on it, into a folder that `splitveil compare` reads.

    It holds what `splitveil train` and `splitveil attack` leave: config.yaml, model.safetensors, summary.json and
    attacks/NAME/; all images of an attack are kept in reconstructions.npz beside its picture. A further result on the
    same model may be saved into the same folder.

    Args:
        thing: a model, or the result of one or several attacks on it.
        path: a new or empty folder, or one that holds this model.

    Returns:
        The folder.

    Raises:
        UserError: the folder holds something else, or cannot be written.

    >>> import tempfile, splitveil as sv
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 2))
    >>> x, y = torch.rand(40, 3, 12, 12), torch.arange(40) % 2
    >>> model = sv.split(net, at="1", example=x[:1], defenses=["gaussian:0.1"])
    >>> result = sv.attack(model, "linear", learn_from=(x[:20], y[:20]), invert=(x[20:], y[20:]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = load(save(result, f"{folder}/mine"), network=net)
    >>> saved.results["linear"].images.shape, saved.model.at
    (torch.Size([20, 3, 12, 12]), '1')
    """
    if not isinstance(thing, SplitModel | Result | Report):
        raise UserError(f"save got a {type(thing).__name__}; expected a SplitModel, a Result or a Report")
    model = thing if isinstance(thing, SplitModel) else thing.model
    if model is None:
        raise UserError("save got figures without their model; load them with network=..., or copy their folder")
    check_model(model)
    if not model.image_shape:
        raise UserError("the model does not know its shapes; make it with an example: SplitModel(..., example=x[:1])")
    path = expanded(path)
    with within_reach(), claimed(path, "saving"):
        _save_model(model, path)
        results = thing.results if isinstance(thing, Report) else {}
        results = {thing.name: thing} if isinstance(thing, Result) else results
        # All is compared with what is there before the first file is written, or a refusal would come half-way.
        new = [label for label, result in results.items() if not _is_kept(result, label, path)]
        report = thing if isinstance(thing, Report) and not check_report(thing, path) else None
        for label in new:
            evaluate.summary_text(results[label].outcome, label)
        for label in new:
            evaluate.save(results[label].outcome, Run.open(path), label, kept=None)
        if report is not None:
            write_report(report, path)
    return path


@dataclass(frozen=True)
class Saved:
    """The content of a folder.

    Attributes:
        path: the folder.
        results: results of the attacks in it, by the name of their folder: ``LABEL@PROTOCOL`` where the protocol is not
            the run's own.
        reports: reports by the name of their suite, and ``SUITE@PROTOCOL`` in the same way.
    """

    path: Path
    results: dict[str, Result] = field(default_factory=dict)
    reports: Reports = field(default_factory=Reports)
    _model: SplitModel | None = field(default=None, repr=False)

    @cached_property
    def model(self) -> SplitModel:
        """Return the trained model, in evaluation mode.

        Raises:
            UserError: it needs a network that was not given, or images that are not where they were.
        """
        if self._model is not None:
            return self._model
        if not (self.path / MODEL).is_file():
            run = Run.open(self.path)
            return run.model(load_images(run.settings))
        raise UserError(
            f"{self.path} holds the weights of a {_read(self.path)['network']}, which no file can build; give one "
            f"of the same layers: splitveil.load({str(self.path)!r}, network=net).model"
        )

    @property
    def report(self) -> Report:
        """Return the report, where there is one.

        Raises:
            UserError: there is none, or more than one, or its file does not tell the figures of the attacks.
        """
        names = [*self.reports, *self.reports.refused]
        if len(names) != 1:
            some = ", ".join(names) or "none"
            raise UserError(f"{self.path} holds the reports {some}; name one: reports[...], or look at results")
        return self.reports[names[0]]


def load(
    path: str | Path,
    network: nn.Module | tuple[nn.Module, nn.Module] | None = None,
    *,
    defenses: Sequence[nn.Module | str] | None = None,
) -> Saved:
    """Read a folder that `save`, or `splitveil train` and `splitveil attack`, have left. No code of it runs.

    Args:
        path: the folder.
        network: a network with the layers of the one that was split (its weights are replaced), or a pair of encoder
            and tail where the halves were given. Not needed for the results alone, nor for a run of `splitveil train`.
        defenses: in their order, where some were of classes of your own.

    Raises:
        UserError: no such folder, a damaged file, or a network or defenses that do not fit.
    """
    path, model = expanded(path), None
    with within_reach():
        if not (path / MODEL).is_file():
            Run.open(path)
            if network is not None or defenses is not None:
                raise UserError(f"{path} holds no model from Python; leave network and defenses out")
        elif network is not None:
            model = _rebuilt(_read(path), path, network, defenses)
        left = sorted(path.glob("attacks/*/summary.json"))
        results = {file.parent.name: Result(file.parent.name, _outcome(file.parent), model) for file in left}
        return Saved(path, results, read_reports(path, results, model), model)


def _save_model(model: SplitModel, path: Path) -> None:
    if (path / "summary.json").is_file() and (path / MODEL).is_file():
        old = load_file(path / WEIGHTS) if (path / WEIGHTS).is_file() else {}
        new = {k: v.detach().cpu() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
        same = old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in new)
        kept, about = _read(path), _about(model)
        if not same or _compared(kept, kept) != _compared(about, kept):
            raise UserError(f"{path} holds another model; choose an empty or new folder")
        return
    others = foreign(path)
    if others and not (path / MODEL).is_file():  # else it was stopped while it saved
        raise UserError(f"{path} exists and holds {others[0].name}; choose an empty or new folder")
    write_json(path / MODEL, _about(model))
    save_weights(model, path / WEIGHTS)
    write_text(path / "config.yaml", _config(model))
    shape = list(model.wire_shape)
    summary = {
        **dict.fromkeys(("accuracy", "epoch", "seconds")),
        "images": {"train": None, "test": None},
        "parameters": parameter_counts(model),
        "wire": {"shape": shape, "bytes": model.bytes_sent},
        "environment": environment(),
    }
    write_summary(path, summary)  # last: it marks the run as finished


def _compared(about: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """Return what makes two models the same: not the version that wrote it, nor what earlier versions did not write."""
    left_out = {"splitveil"} | ({"trained_by"} - kept.keys())
    defenses = [dict(one) for one in about["defenses"]]
    for one in defenses:  # up to version 0.2.0 the mode of an own defense was among its settings
        if not one["registered"]:
            one["parameters"] = {name: value for name, value in one["parameters"].items() if name != "training"}
    found = {**{name: value for name, value in about.items() if name not in left_out}, "defenses": defenses}
    if trained := found.get("trained_by"):  # settings that came later have the default
        found["trained_by"] = {**Recipe.model_validate({}).model_dump(mode="json"), **trained}
    return found


def _about(model: SplitModel) -> dict[str, Any]:
    network = "network" if model.at is not None else "pair (encoder, tail)"
    parts = model.defense if isinstance(model.defense, Stack) else filter(None, [model.defense])
    return {
        "splitveil": __version__,
        "network": network,
        "at": model.at,
        "layout": model.given_layout,
        "image": list(model.image_shape),
        "wire": list(model.wire_shape),
        "stacked": isinstance(model.defense, Stack),
        "defenses": [_described(part) for part in parts],
        "trained_by": model.trained_by,
    }


def _described(defense: Any) -> dict[str, Any]:
    registered = config.is_registered(defense, "defenses")
    spec = config.spec_of(defense, "defenses") if registered else config.OwnSpec.of(defense)
    return {"name": spec.name, "parameters": dict(spec.parameters), "registered": registered}


def _config(model: SplitModel) -> str:
    """Return what `splitveil train` would have written, as far as it is known."""
    about = _about(model)["defenses"]
    named = [{one["name"]: one["parameters"]} for one in about if one["registered"]]
    trained = {**model.trained_by}
    if trained:  # `fit` augments only where it is asked to
        trained |= {"crop_padding": trained["crop_padding"] or 0, "flip": bool(trained["flip"])}
    notes = {"saved_from": "Python, with splitveil.save", "splitveil": __version__}
    if own := [one["name"] for one in about if not one["registered"]]:
        notes["further_defenses"] = ", ".join(own)
    if not trained:
        notes["training"] = "unknown; the settings below are defaults"
    settings = config.parse({"data": OWN, "arch": OWN, "defense": named, **trained})
    return config.dump(settings.resolve(), **notes)


def _is_kept(result: Result, label: str, path: Path) -> bool:
    """Return whether a folder holds a result already; refuse it where it holds another one of the same name."""
    folder = path / "attacks" / label
    if not (folder / "summary.json").is_file():
        return False
    kept = reading.read_json(folder / "summary.json", reading.ATTACK, REMEDY)
    names = ("attack", "seed", "observed", "images", "images_digest", "mse")
    if any(kept.get(name) != result.outcome.summary.get(name) for name in names):
        raise UserError(f"{folder} holds another result; choose an empty or new folder")
    return True


def _read(path: Path) -> dict[str, Any]:
    return reading.read_json(path / MODEL, _KIND, REMEDY)


def _rebuilt(about: dict[str, Any], path: Path, network: Any, defenses: Sequence[nn.Module | str] | None) -> SplitModel:
    own = [one["name"] for one in about["defenses"] if not one["registered"]]
    if own and defenses is None:
        names = ", ".join(one["name"] for one in about["defenses"])
        raise UserError(
            f"{path} was defended by {names}, of which {', '.join(own)} is a class of your own; give all of them in "
            "their order: defenses=[...]"
        )
    texts = [config.Spec(name=one["name"], parameters=one["parameters"]) for one in about["defenses"]]
    given = texts if defenses is None else defenses
    made = [one if isinstance(one, nn.Module) else config.spec_of(one, "defenses").make("defenses") for one in given]
    stack: Any = made if about["stacked"] else next(iter(made), None)
    blank, layout = torch.zeros(1, *about["image"]), about["layout"]
    normalization = _normalization(path)
    if about["at"] is not None:
        whole = network_of(network)
        model = SplitModel.cut(whole, about["at"], blank, defense=stack, layout=layout, **normalization)
    elif isinstance(network, tuple | list) and len(network) == 2:
        halves = [network_of(half) for half in network]
        model = SplitModel(*halves, defense=stack, layout=layout, example=blank, **normalization)
    else:
        raise UserError(f"{path} was made of two halves; give both: network=(encoder, tail)")
    if list(model.wire_shape) != about["wire"]:
        raise UserError(
            f"{path} has the wire {tuple(about['wire'])}, the network that was given {model.wire_shape}; give one of "
            "the same layers"
        )
    _check_names(model, path)
    check_weights(path, Run.open(path).summary, REMEDY)
    load_weights(model, path / WEIGHTS)
    model.trained_by = about.get("trained_by", {})  # earlier versions did not write it
    return model.eval()


def _normalization(path: Path) -> dict[str, list[float]]:
    """Return the numbers by which the images are normalized, which are among the weights."""
    try:
        tensors = load_file(path / WEIGHTS)
        return {name: tensors[name].tolist() for name in ("mean", "std")}
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(f"cannot read the weights {path / WEIGHTS}: {error}; {REMEDY}") from None


def _check_names(model: SplitModel, path: Path) -> None:
    """Refuse a network that lacks layers of the one that was saved: their weights would be left out."""
    kept = {name for name in load_file(path / WEIGHTS) if name.startswith(("encoder.", "tail."))}
    if unknown := sorted(kept - model.state_dict().keys()):
        raise UserError(
            f"{path / WEIGHTS} holds {unknown[0]}, which the network that was given has not; give one of the same "
            "layers"
        )


def _outcome(folder: Path) -> Outcome:
    remedy = f"remove {folder}, and make the attack again"
    summary = reading.read_json(folder / "summary.json", reading.ATTACK, remedy)
    seen = {DISTANCE} & summary.keys()
    names = {name for name in METRICS if name in summary} | seen
    count = summary["images"]["attacked"]
    table = reading.read_columns(folder / "per_image.csv", names, remedy, count)
    values = {name: torch.from_numpy(column).float() for name, column in table.items() if name != "image"}
    ceiling = values.pop(CLASS_MEAN, None)
    held = suites.held_out(folder, seen, summary, remedy) if "held_out" in summary else {}
    return Outcome(summary, values, held, *_images(folder / evaluate.ARRAYS, count, remedy), class_mean=ceiling)


def _images(path: Path, count: int, remedy: str) -> tuple[Tensor, Tensor]:
    """Return originals and reconstructions, uint8 (N, C, H, W); none where the folder keeps only the first of them."""
    if path.is_file():
        originals, found = map(torch.from_numpy, load_arrays(path, ("originals", "reconstructions"), remedy))
        if len(found) == count:
            return originals, found
    return torch.zeros(0, 3, 1, 1, dtype=torch.uint8), torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
