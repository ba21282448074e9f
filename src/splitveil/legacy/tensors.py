"""The published checkpoint files: read without running code, matched with our tensors by order and shape."""

from __future__ import annotations

import pickle
import re
import shlex
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..storage.files import is_safetensors

FILES = {"f": "the device part", "cloud": "the cloud part", "classifier": "the classifier"}
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PROFILER = ("total_ops", "total_params", "forward_pass")
"""Counters that the published profiler and lca-pytorch leave in the layers."""
COUNTER = "num_batches_tracked"
FOREIGN = re.compile(r"GLOBAL|reduce for|can only build|Unsupported class", re.IGNORECASE)
"""Words of torch's safe reader that mean: the file names a class or function that is not torch's own."""
WHOLE = {"local": "f", "cloud": "cloud", "classifier": "classifier"}
"""Prefix in a file of the whole model -> name of the part."""
NO_PART = (
    "decoders and generators of the published attacks (model.pt, *_G.tar) are not imported: import the network's own "
    "checkpoint, then train the attack on that run: splitveil attack RUN --attack decoder{0}, or --attack gan"
)
AS_TRAINED = "give --arch, --cut and --bottleneck as it was trained"


class Mismatch(UserError):
    """Tensors of another network; `matched` of them found their place."""

    def __init__(self, message: str, matched: int):
        super().__init__(message)
        self.matched = matched


@dataclass(frozen=True)
class Stored:
    """The three parts of a published model, and the file that each was in."""

    tensors: dict[str, dict[str, Tensor]]
    paths: dict[str, Path]


def read_checkpoint(place: Path, checkpoint: str) -> Stored:
    """Return the tensors of `checkpoint_{f,cloud,classifier}_{checkpoint}.tar`, or of one file that holds all three.

    The published code writes one file, `checkpoint_{checkpoint}.tar`, where its scheme has no V (`orig_epoch`).

    Args:
        place: the folder, or that one file.
        checkpoint: "best" or an epoch.

    Raises:
        UserError: a missing, truncated or malicious file, or one that holds more than tensors or something else.
    """
    if not place.is_dir():
        return _whole(place)
    paths = {part: place / f"checkpoint_{part}_{checkpoint}.tar" for part in FILES}
    whole = place / f"checkpoint_{checkpoint}.tar"
    if whole.is_file() and not all(path.is_file() for path in paths.values()):
        return _whole(whole)
    for part, path in paths.items():
        if not path.is_file():
            raise UserError(f"{place} lacks {path.name}, {FILES[part]}; {_there(place)}")
    return Stored({part: read_tensors(path) for part, path in paths.items()}, paths)


def _there(folder: Path) -> str:
    """Return what a folder holds instead, and what to do: only whole checkpoints are proposed."""
    names = sorted(path.name for path in folder.glob("checkpoint_*.tar"))
    if not names:
        others = [path for path in sorted(folder.iterdir()) if path.suffix in (".pt", ".tar") and path.is_file()]
        if others:
            return f"it has {others[0].name}: {NO_PART.format('')}"
        return "it has no checkpoint_*.tar; give the folder that the published training wrote"
    rests = [name.removeprefix("checkpoint_").removesuffix(".tar") for name in names]
    parts = {part: {rest.removeprefix(f"{part}_") for rest in rests if rest.startswith(f"{part}_")} for part in FILES}
    in_parts = set.intersection(*parts.values())
    in_one = {rest for rest in rests if rest.partition("_")[0] not in FILES}
    found = f"it has {', '.join(names)}"
    if complete := sorted(in_parts | in_one):
        return f"{found}; choose with --checkpoint {' or '.join(complete)}"
    return f"{found}, and of no checkpoint all three parts; copy the missing ones too"


def _whole(path: Path) -> Stored:
    tensors = read_tensors(path)
    found: dict[str, dict[str, Tensor]] = {part: {} for part in FILES}
    for name, value in tensors.items():
        prefix, _, rest = name.partition(".")
        if prefix in WHOLE and rest:
            found[WHOLE[prefix]][rest] = value
    if all(found.values()):
        return Stored(found, dict.fromkeys(FILES, path))
    if re.fullmatch(rf"checkpoint_({'|'.join(FILES)})_.+", path.stem):
        raise UserError(f"{path} is one part of three; give its folder: {path.parent}")
    raise UserError(f"{path} is no model that was cut in two; {NO_PART.format(_decoder(tensors))}")


def _decoder(tensors: dict[str, Tensor]) -> str:
    """Return `:network=NAME` of a published residual decoder, where its layers tell."""
    blocks = sum(name.endswith(".bn0.weight") for name in tensors)
    first = tensors.get("m.0.conv1.weight")
    return "" if first is None or blocks < 2 else f":network=res_normN{blocks - 2}C{first.shape[0]}"


def is_stored(path: Path) -> bool:
    """Return whether a file begins as those of torch.save or of safetensors do, whatever its name is."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(2)
    return head == b"PK" or head[:1] == b"\x80" or is_safetensors(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one torch file, in their order, without common prefixes and profiler counters.

    Args:
        path: file that is read.
    """
    stored = _load(path)
    for key in WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    if not isinstance(stored, Mapping):
        raise UserError(f"{path} holds a {type(stored).__name__}; expected a state dictionary (names and tensors)")
    for name, value in stored.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: {name} is a {type(value).__name__}; expected a state dictionary of tensors only")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"{path}: {name} holds values that are not finite; the training had diverged")
    tensors = {str(k): v for k, v in stored.items() if k.rpartition(".")[2] not in PROFILER}
    if not tensors:
        raise UserError(f"{path} holds no tensors; expected a state dictionary")
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _load(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(2)
    if head == b"PK" and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is truncated: its end is missing; copy it again")
    if is_safetensors(path):
        raise UserError(
            f"{path} holds safetensors, which do not keep the order of the layers by which tensors are matched; "
            "expected a file of torch.save(model.state_dict(), ...)"
        )
    try:
        with path.open("rb") as file:  # by content: of a path, torch.load reads the name
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not FOREIGN.search(str(error)):
            raise UserError(f"{path} is damaged, or no file of torch.save; copy it again") from None
        code = (
            f"import os, torch; p = {str(path)!r}; m = torch.load(p, map_location='cpu', weights_only=False); "
            "os.rename(p, p + '.whole'); torch.save(m.state_dict(), p)"
        )
        raise UserError(
            f"{path} holds more than tensors: a whole model, as the published code saves pruned ones, or worse; "
            "loading it would run its author's code, so it is refused; if you trust it, keep its tensors, in the "
            f"folder of the code that made it: python -c {shlex.quote(code)}"
        ) from None
    except Exception as error:  # on damaged bytes torch's reader raises whatever its steps happen to raise
        raise UserError(f"{path} is truncated or damaged ({_first(error)}); copy it again") from None


def match(source: str, tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our name -> published tensor, by order, last part of the name and shape; every tensor must be used.

    Args:
        source: the file, for messages.
        tensors: published tensors in the order of layers.
        wanted: our tensors in the order of layers; batch counters may be absent.

    Raises:
        Mismatch: the first tensor that is missing, mis-shaped or left over.
    """
    have = [name for name in tensors if not name.endswith(COUNTER)]
    want = [name for name in wanted if not name.endswith(COUNTER)]
    for at, ours in enumerate(want):
        shape = tuple(wanted[ours].shape)
        if at >= len(have) or leaf(have[at]) != leaf(ours):
            name = _published(at, have, want)
            raise Mismatch(f"{source} lacks the tensor {name} of shape {shape} ({ours} here); {AS_TRAINED}", at)
        found = tuple(tensors[have[at]].shape)
        if found != shape:
            wrong = f"{source}: {have[at]} has shape {found}, expected {shape} ({ours} here)"
            raise Mismatch(f"{wrong}; {AS_TRAINED}", at)
    if len(have) > len(want):
        extra = have[len(want)]
        shape = tuple(tensors[extra].shape)
        raise Mismatch(f"{source}: {extra} of shape {shape} is left over, a layer too many; {AS_TRAINED}", len(want))
    pairs = dict(zip(want, (tensors[name] for name in have), strict=True))
    counters = [value for name, value in tensors.items() if name.endswith(COUNTER)]
    ours = [name for name in wanted if name.endswith(COUNTER)]
    return pairs | (dict(zip(ours, counters, strict=True)) if len(ours) == len(counters) else {})


def leaf(name: str) -> str:
    """Return the last part of a tensor's name."""
    return name.rpartition(".")[2]


def _published(at: int, have: list[str], want: list[str]) -> str:
    """Return the name that a missing tensor had: its layer is that of its neighbor in the same layer of ours."""
    layer = want[at].rpartition(".")[0]
    for near, index in ((at + 1, at), (at - 1, at - 1)):
        if 0 <= near < len(want) and 0 <= index < len(have) and want[near].rpartition(".")[0] == layer:
            prefix = have[index].rpartition(".")[0]
            return f"{prefix}.{leaf(want[at])}" if prefix else leaf(want[at])
    return leaf(want[at])


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120].rstrip(".;")
