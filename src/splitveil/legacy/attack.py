"""From the options of the published attack to an attack of ours, with notes on every option that has none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import UserError, nearest
from . import notes as say
from .options import PARSER, SHARED, Reading, unknown_value
from .wire import shrinking

DECODER = re.compile(r"(?:res|conv)_normN\d+C\d+|custom(?:_released)?")
ELSEWHERE = ("gan_AE_type", "num_client", "filename", "folder")
"""Flags that mean something else in training and attack, or are read elsewhere."""
OF_A_DECODER = ("gan_AE_type", "attack_loss_type", "MIA_optimizer", "MIA_lr", "attack_confidence_score")
SCHEMES = ("MIA", "MIA_mf", "MIA_truncate20")
LOSSES = ("MSE", "L1", "SSIM", "PSNR")


def attack_spec(flags: Mapping[str, Any], trained: Mapping[str, Any], reading: Reading, notes: list[str]) -> str:
    """Return the attack that the published script runs, as `name:key=value`.

    Args:
        flags: typed flags of main_test_MIA.py; those not given are its parser's.
        trained: typed flags of the training that is attacked, with the values taken for those not given.
        reading: "paper" or "code".
        notes: takes one line for each option that has no counterpart.

    Raises:
        UserError: a value that the published code does not know either.

    >>> attack_spec({"attack_epochs": 30, "gan_AE_type": "res_normN8C64", "test_best": True}, {}, "paper", [])
    'decoder:epochs=30,network=res_normN8C64'
    """
    _known(flags, "attack_scheme", SCHEMES, r"MIA|MIA_mf|MIA_truncate\d*")
    _known(flags, "attack_loss_type", LOSSES)
    _known(flags, "MIA_optimizer", ("Adam", "SGD"))
    if flags.get("num_client", 1) != 1:
        raise UserError(f"--num_client {flags['num_client']:g} has no equivalent; expected 1 (one device)")
    notes += _of_the_run(flags, trained)
    notes += _aside(flags)
    scheme, epochs = flags.get("attack_scheme", "MIA"), flags.get("attack_epochs")
    if scheme == "MIA_mf":
        notes.append(say.MODEL_FREE)
        unread = ", ".join(f"--{name}" for name in OF_A_DECODER if name in flags)
        notes += [say.UNREAD.format(unread)] if unread else []
        return f"rmle:steps={60 * (50 if epochs is None else epochs)},tv=0,l2=0,start=grey"
    if scheme != "MIA":
        notes.append(say.TRUNCATED.format(scheme))
    notes += [say.LOSS.format(loss)] if (loss := flags.get("attack_loss_type", "MSE")) != "MSE" else []
    sgd = flags.get("MIA_optimizer") == "SGD"
    notes += [say.SGD] if sgd else []
    parts = {"epochs": epochs, "lr": None if sgd else flags.get("MIA_lr")}
    if flags.get("attack_confidence_score"):
        notes.append(say.CONFIDENCE if reading == "paper" else say.CONFIDENCE_OF_CODE)
        if reading == "paper":
            return _spec("confidence", parts)
    name = flags.get("gan_AE_type", PARSER["gan_AE_type"])
    network = decoder_network(name, notes)
    if network.startswith("res_normN") and trained and shrinking(trained) not in (None, 4):
        notes.append(say.QUARTER.format(network))
    if name == "custom":
        notes.append(say.CUSTOM.format("" if "gan_AE_type" in flags else ", its default,"))
    return _spec("decoder", {"epochs": parts["epochs"], "network": network, "lr": parts["lr"]})


def decoder_network(name: str, notes: list[str]) -> str:
    """Return our name of a published decoder; add a note where ours is another network.

    Raises:
        UserError: no decoder of the published code.

    >>> decoder_network("custom", []), decoder_network("res_normN4C64", [])
    ('custom_released', 'res_normN4C64')
    """
    if not DECODER.fullmatch(name):
        hint = "; did you mean 'custom'?" if nearest(name, ["custom"], 0.6) else ";"
        raise UserError(
            f"--gan_AE_type '{name}' is no decoder{hint} expected custom, or as res_normN4C64 or conv_normN4C64: "
            "4 blocks of 64 channels (the published code stops, or takes 0 of 64)"
        )
    notes += [say.CONV_NORM.format(name)] if name.startswith("conv_normN") else []
    return "custom_released" if name == "custom" else name


def _spec(name: str, parts: Mapping[str, Any]) -> str:
    given = ",".join(f"{key}={value}" for key, value in parts.items() if value is not None)
    return f"{name}:{given}" if given else name


def _of_the_run(flags: Mapping[str, Any], trained: Mapping[str, Any]) -> list[str]:
    """Return notes on what the attack is told about the network otherwise than the training was."""
    names = [name for name in SHARED if name not in ELSEWHERE and name in flags]
    found = [
        say.OTHER_RUN.format(name, flags[name], trained[name])
        for name in names
        if trained.get(name, flags[name]) != flags[name]
    ]
    noisy = "Gaussian" in str(trained.get("regularization")) and trained.get("regularization_strength")
    if noisy and not {"regularization", "regularization_strength"} <= flags.keys():
        found.append(say.QUIET.format(trained["regularization"]))
    return found


def _aside(flags: Mapping[str, Any]) -> list[str]:
    """Return notes on options that are without effect, or that something else here does."""
    numbers = {
        "average_time": (say.AVERAGE, 1),
        "target_client": (say.TARGET, 0),
        "attack_from_later_layer": (say.LATER, -1),
    }
    found = [] if flags.get("test_best") else [say.NOT_BEST]
    found += [note.format(flags[name]) for name, (note, plain) in numbers.items() if flags.get(name, plain) != plain]
    switches = {"noise_aware": say.AWARE, "measure_option": say.MEASURE, "new_log_folder": say.LOG_FOLDER}
    found += [note for name, note in switches.items() if name in flags]
    return found + [say.NO_READER.format(name) for name in ("save_activation_tensor", "bhtsne_option") if name in flags]


def _known(flags: Mapping[str, Any], name: str, options: tuple[str, ...], pattern: str = "") -> None:
    value = flags.get(name, options[0])
    if value not in options and not (pattern and re.fullmatch(pattern, value)):
        raise unknown_value(name, value, options)
