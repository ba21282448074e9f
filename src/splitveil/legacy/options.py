"""The grammar of the published options: flags, bottlenecks, defenses. Anchored: nothing is guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError, did_you_mean

VALUES: dict[str, type] = {
    "arch": str,
    "cutlayer": int,
    "batch_size": int,
    "num_epochs": int,
    "learning_rate": float,
    "lambd": float,
    "dataset": str,
    "regularization": str,
    "regularization_strength": float,
    "var_threshold": float,
    "AT_regularization": str,
    "AT_regularization_strength": float,
    "log_entropy": float,
    "ssim_threshold": float,
    "gan_AE_type": str,
    "gan_loss_type": str,
    "bottleneck_option": str,
    "random_seed": int,
}
"""Flags with a value that says what is trained."""
FIXED: dict[str, float] = {
    "num_client": 1,
    "local_lr": -1,
    "dataset_portion": 1,
    "client_sample_ratio": 1,
    "noniid": 1,
    "optimize_computation": 1,
}
"""Flags of which only this value has an equivalent."""
NAMES = ("filename", "folder", "scheme", "transfer_source_task")
"""Flags with a value that changes nothing for one device: folders, the order in which clients synchronize."""
SWITCHES = (
    "load_from_checkpoint",
    "load_from_checkpoint_server",
    "finetune_freeze_bn",
    "initialize_different",
    "save_more_checkpoints",
    "decoder_sync",
)
"""Flags without a value."""
ATTACK_VALUES: dict[str, type] = {
    "attack_epochs": int,
    "average_time": int,
    "target_client": int,
    "attack_scheme": str,
    "attack_from_later_layer": int,
    "attack_loss_type": str,
    "MIA_optimizer": str,
    "MIA_lr": float,
}
ATTACK_SWITCHES = (
    "test_best",
    "save_activation_tensor",
    "attack_confidence_score",
    "measure_option",
    "noise_aware",
    "new_log_folder",
    "bhtsne_option",
)
BOTTLENECK = re.compile(r"(?P<bare>no(?:RELU|ReLU|relu)_)?(?:K(?P<kernel>\d+))?C(?P<channels>\d+)(?:S(?P<stride>\d+))?")
PARTS = {
    "gan_adv": r"gan_adv",
    "noise": r"noise",
    "step": r"step(\d+)",
    "pruning": r"pruning(\d+)?",
    "nopeek": r"nopeek(?:_ttitcombe)?",
    "dropout": r"dropout(\d*\.?\d+)?",
    "topkprune": r"topkprune(\d*\.?\d+)?",
    "sparse": r"SCA(?:_new)?",
    "laplace": r"local_dp_laplace",
    "local_dp": r"local_dp",
}
"""Parts of a defense string, joined by `_`."""
EXAMPLES = (
    "None",
    "gan_adv",
    "gan_adv_step1",
    "gan_adv_step1_pruning180",
    "gan_adv_noise",
    "nopeek",
    "dropout0.2",
    "nopeek_ttitcombe",
    "topkprune0.2",
    "SCA_new",
    "local_dp",
    "local_dp_laplace",
    "pruning180",
)


def read_flags(argv: Sequence[str], *, attack: bool = False) -> dict[str, Any]:
    """The typed values of `--flag value` and `--flag=value`; of a flag given twice, the last counts.

    Args:
        attack: also accept the flags of the published attack script.

    Raises:
        UserError: an unknown flag (with the nearest), a missing or mistyped value.

    >>> read_flags(["--lambd", "16", "--random_seed=125"])
    {'lambd': 16.0, 'random_seed': 125}
    """
    types: dict[str, type] = VALUES | dict.fromkeys(FIXED, float) | dict.fromkeys(NAMES, str)
    types |= ATTACK_VALUES if attack else {}
    switches = (*SWITCHES, *(ATTACK_SWITCHES if attack else ()))
    found: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or (name not in types and name not in switches):
            known = [f"--{flag}" for flag in (*types, *switches)]
            hint = did_you_mean(word.partition("=")[0], known) or "; expected --flag value, such as --lambd 16"
            raise UserError(f"'{word}' is no option of the published code{hint}")
        if name in switches:
            if equals:
                raise UserError(f"--{name} takes no value, got '{value}'; leave it out or write --{name}")
            found[name] = True
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"--{name} has no value; write --{name} VALUE or --{name}=VALUE")
            value = words.pop(0)
        found[name] = _typed(name, value, types[name])
    return found


def _typed(name: str, value: str, kind: type) -> Any:
    if kind is str:
        return value
    try:
        number = kind(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        expected = "a whole number" if kind is int else "a number"
        raise UserError(f"--{name} is '{value}'; expected {expected}, such as {'4' if kind is int else '0.025'}")
    return number


@dataclass(frozen=True)
class BottleneckOption:
    """`noRELU_K5C8S1`: 8 channels, stride 1, kernel 5, without ReLU."""

    channels: int
    stride: int
    kernel: int
    relu: bool


def read_bottleneck(option: str) -> BottleneckOption | None:
    """The bottleneck of a published string; None for `None`.

    Raises:
        UserError: anything that is not `[noRELU_][Kk]Cc[Ss]`.

    >>> read_bottleneck("noRELU_C8S1")
    BottleneckOption(channels=8, stride=1, kernel=3, relu=False)
    """
    if option == "None":
        return None
    match = BOTTLENECK.fullmatch(option)
    if match is None or int(match["channels"]) < 1 or int(match["stride"] or 1) < 1:
        hint = did_you_mean(option, ("noRELU_C8S1", "C8S1", "noRELU_K5C8S1", "C8S2", "None")) or ";"
        raise UserError(
            f"--bottleneck_option '{option}' is no bottleneck{hint} expected as noRELU_C8S1: 8 channels, "
            "stride 1, no ReLU (the published code goes on with 8 channels and a ReLU)"
        )
    stride = int(match["stride"] or 1)
    kernel = int(match["kernel"] or 3) if stride == 1 else 3  # the published strided convolutions are all 3×3
    return BottleneckOption(int(match["channels"]), stride, kernel, match["bare"] is None)


@dataclass(frozen=True)
class DefenseOption:
    """A defense string taken apart: part -> the number after it, or None."""

    text: str
    parts: dict[str, float | None] = field(default_factory=dict)

    @property
    def steps_of_code(self) -> int:
        """Decoder steps per batch as the published parser reads them: what follows the last `step`, or 3."""
        rest = self.text.rpartition("step")
        return int(rest[2]) if rest[1] and rest[2].isdigit() else 3


def read_defense(option: str, flag: str = "AT_regularization") -> DefenseOption:
    """The parts of a published defense string.

    Raises:
        UserError: an unknown part (with the nearest option), or one given twice or out of place.

    >>> read_defense("gan_adv_step1_pruning180").parts
    {'gan_adv': None, 'step': 1.0, 'pruning': 180.0}
    """
    parts: dict[str, float | None] = {}
    rest = "" if option == "None" else option
    if not option:
        raise UserError(f"--{flag} is empty; expected for example {', '.join(EXAMPLES[:4])}")
    while rest:
        name, match = _first_part(rest)
        if match is None:
            raise _unknown_part(flag, option, rest)
        if name in parts:
            raise UserError(f"--{flag} {option}: '{match[0]}' comes a second time; give each part once")
        parts[name] = float(match[1]) if match.re.groups and match[1] is not None else None
        rest = rest[match.end() :]
        if rest == "_":
            raise _unknown_part(flag, option, rest)
        rest = rest.removeprefix("_")
    if "gan_adv" not in parts and parts.keys() & {"step", "noise"}:
        raise UserError(f"--{flag} {option}: step and noise belong to gan_adv; did you mean 'gan_adv_{option}'?")
    return DefenseOption(option, parts)


def _first_part(rest: str) -> tuple[str, re.Match[str] | None]:
    for name, pattern in PARTS.items():
        if match := re.match(rf"(?:{pattern})(?=_|$)", rest):
            return name, match
    return "", None


def _unknown_part(flag: str, option: str, rest: str) -> UserError:
    hint = did_you_mean(option, EXAMPLES) or ";"
    examples = ", ".join(EXAMPLES)
    return UserError(f"--{flag} {option}: '{rest}' is no part of a defense{hint} expected for example {examples}")
