"""The grammar of the published flags and bottlenecks. Anchored: nothing is guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UserError, did_you_mean

Reading = Literal["paper", "code"]
"""The meaning that the options have in the paper, or in the published code."""
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
"""Flags whose value says what is trained."""
FIXED: dict[str, float] = {
    "num_client": 1,
    "local_lr": -1,
    "dataset_portion": 1,
    "client_sample_ratio": 1,
    "noniid": 1,
    "optimize_computation": 1,
}
"""Flags with the only value that has an equivalent."""
NAMES = ("filename", "folder", "scheme", "transfer_source_task")
"""Flags whose value is a name: folders, the order in which clients synchronize."""
SWITCHES = (
    "load_from_checkpoint",
    "load_from_checkpoint_server",
    "finetune_freeze_bn",
    "initialize_different",
    "save_more_checkpoints",
    "decoder_sync",
)
"""Flags without a value."""
PARSER: dict[str, Any] = {
    "arch": "vgg11_bn",
    "num_epochs": 100,
    "learning_rate": 0.01,
    "random_seed": 123,
    "lambd": 1.0,
    "var_threshold": 0.1,
    "log_entropy": 0.0,
    "gan_AE_type": "custom",
    "ssim_threshold": 0.0,
}
"""Defaults of the published parser that differ from its run_exp.sh."""
SHARED = (
    "arch",
    "cutlayer",
    "batch_size",
    "num_epochs",
    "dataset",
    "regularization",
    "regularization_strength",
    "var_threshold",
    "AT_regularization",
    "AT_regularization_strength",
    "log_entropy",
    "gan_AE_type",
    "gan_loss_type",
    "bottleneck_option",
    "random_seed",
    "num_client",
    "filename",
    "folder",
    "scheme",
)
"""Flags of the training that the published attack, main_test_MIA.py, has too."""
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
BOTTLENECK = re.compile(
    r"(?P<bare>no(?:RELU|ReLU|relu)_)?(?:K(?P<kernel>\d{1,9}))?C(?P<channels>\d{1,9})(?:S(?P<stride>\d{1,9}))?"
)


def read_flags(argv: Sequence[str], *, attack: bool = False) -> dict[str, Any]:
    """Return the typed values of `--flag value` and `--flag=value`; of a flag given twice, the last counts.

    Args:
        argv: words of a command line.
        attack: the flags are those of main_test_MIA.py, the published attack, not of main_MIA.py.

    Raises:
        UserError: an unknown flag (with the nearest), a missing or mistyped value.

    >>> read_flags(["--lambd", "16", "--random_seed=125"])
    {'lambd': 16.0, 'random_seed': 125}
    """
    types, switches = _flags(attack)
    found: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or (name not in types and name not in switches):
            raise _unknown_flag(word, attack)
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


def _flags(attack: bool) -> tuple[dict[str, type], tuple[str, ...]]:
    """Return the flags with a value, and those without, of one of the two published parsers."""
    types: dict[str, type] = VALUES | dict.fromkeys(FIXED, float) | dict.fromkeys(NAMES, str)
    if attack:
        return {name: types[name] for name in SHARED} | ATTACK_VALUES, ATTACK_SWITCHES
    return types, SWITCHES


def _unknown_flag(word: str, attack: bool) -> UserError:
    name, (types, switches), others = word.partition("=")[0], _flags(attack), _flags(not attack)
    if word.startswith("--") and name[2:] in (*others[0], *others[1]):
        here, there = ("main_test_MIA.py", "main_MIA.py") if attack else ("main_MIA.py", "main_test_MIA.py")
        what = "its training" if attack else "its attack; here: splitveil attack RUN --attack decoder:epochs=50"
        return UserError(f"{name} is no option of the published {here}, but of {there}, {what}; leave it out here")
    hint = did_you_mean(name, [f"--{flag}" for flag in (*types, *switches)])
    return UserError(
        f"'{word}' is no option of the published code{hint or '; expected --flag value, such as --lambd 16'}"
    )


def unknown_value(flag: str, value: str, options: Sequence[str]) -> UserError:
    """Return the error for a value that is none of `options`."""
    hint = did_you_mean(value, options) or ";"
    return UserError(f"--{flag} '{value}' is unknown{hint} expected one of: {', '.join(options)}")


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
    """A published bottleneck, such as `noRELU_K5C8S1`: 8 channels, stride 1, kernel 5, without ReLU."""

    channels: int
    stride: int
    kernel: int
    relu: bool


def read_bottleneck(option: str) -> BottleneckOption | None:
    """Return the bottleneck of a published string; None for `None`.

    Args:
        option: as the published code has it.

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
