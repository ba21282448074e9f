"""The translation of published options to the settings of a training, with notes where the code did otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from .. import config
from ..errors import UserError, did_you_mean
from . import notes as say
from .options import FIXED, PARSER, Reading, read_bottleneck, read_flags, unknown_value
from .specs import defenses

RECIPE = {
    "arch": "vgg11_bn_sgm",
    "cutlayer": 4,
    "dataset": "cifar10",
    "num_epochs": 240,
    "learning_rate": 0.05,
    "batch_size": 128,
    "random_seed": 125,
    "var_threshold": 0.125,
    "ssim_threshold": 0.5,
    "AT_regularization_strength": 0.3,
    "gan_AE_type": "res_normN4C64",
    "gan_loss_type": "SSIM",
    "log_entropy": 1.0,
}
"""The published run_exp.sh, for options that are not given; where the parser has another default, a note says so."""
UNSAID = {
    "regularization": "None",
    "regularization_strength": 0.0,
    "AT_regularization": "None",
    "bottleneck_option": "None",
    "scheme": "V2_epoch",
}
"""The parser's defaults of options that run_exp.sh gives, which are not assumed here."""
BESIDE = (
    "AT_regularization_strength",
    "regularization_strength",
    "var_threshold",
    "log_entropy",
    "gan_AE_type",
    "gan_loss_type",
    "ssim_threshold",
)
"""Options that count only beside others."""
DATASETS = ("cifar10", "cifar100", "facescrub", "tinyimagenet")
ELSEWHERE = ("svhn", "mnist", "fmnist", "celeba", "imagenet")
VGGS = ("vgg11", "vgg11_bn", "vgg11_bn_sgm", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn")
RESNETS = ("resnet20", "resnet32")
ARCHITECTURES = (*VGGS, *RESNETS, "mobilenetv2")
MILESTONES = (60, 120, 180, 210, 260)


@dataclass(frozen=True)
class Translation:
    """Settings for `splitveil train --config`, and what must be known about them.

    Attributes:
        settings: plain values of a `TrainConfig`, only those that the options say or imply.
        notes: one line for each point at which the published code did something else than it said.
        attacks: the published attacks, each as `name:key=value`, where a script runs some.
    """

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    attacks: tuple[str, ...] = ()

    def to_yaml(self) -> str:
        """Return YAML that `splitveil train --config` reads; the notes and the attacks are comments."""
        return comments(self.notes, self.attacks) + yaml.safe_dump(self.settings, sort_keys=False)


def comments(notes: Sequence[str], attacks: Sequence[str] = ()) -> str:
    """Return the head of a YAML file: one comment line for each note."""
    lines = [f"# note: {note}\n" for note in notes]
    if attacks:
        options = " ".join(f"--attack {attack}" for attack in attacks)
        lines.append(f"# the published attack{'s' * (len(attacks) > 1)}: splitveil attack RUN {options}\n")
    return "".join(lines)


def read_options(argv: Sequence[str], *, reading: Reading = "paper") -> Translation:
    """Translate options of the published `main_MIA.py`; those not given are the published recipe's.

    Args:
        argv: `--flag value` or `--flag=value` words.
        reading: "paper" gives what the options say; "code" what the published code makes of them, where that
            can be expressed.

    Raises:
        UserError: an unknown flag or token, a value that has no equivalent.

    >>> read_options(["--AT_regularization", "gan_adv_step1", "--lambd", "16"]).settings["defense"][-1]
    'cem:weight=16,loss=released,threshold=0.125'
    """
    return translate(read_flags(argv), reading)


def translate(flags: dict[str, Any], reading: Reading = "paper") -> Translation:
    """Translate typed flags, as `read_flags` returns them.

    Args:
        flags: typed flags of a training.
        reading: "paper" or "code".
    """
    if reading not in ("paper", "code"):
        hint = did_you_mean(reading, ("paper", "code")) or ";"
        raise UserError(f"--reading is '{reading}'{hint} expected paper or code")
    notes: list[str] = []
    _aside(flags, notes)
    given = taken(flags)
    settings: dict[str, Any] = {"data": _dataset(given["dataset"])}
    settings["arch"] = _architecture(given, reading, notes)
    settings["cut"] = given["cutlayer"]
    settings |= _bottleneck(given["bottleneck_option"], reading, notes)
    if settings["arch"] == "mobilenetv2_released" and "bottleneck" in settings:
        settings["bottleneck_relu"] = True
    settings["defense"] = defenses(flags, given, reading, notes)
    counting = _counting(flags, settings["defense"])
    notes += _not_given(flags, given, counting)
    notes += _unread(flags, counting)
    settings |= {
        "epochs": given["num_epochs"],
        "batch_size": given["batch_size"],
        "lr": given["learning_rate"],
    }
    settings |= _schedule(given["num_epochs"], reading, notes)
    settings["seed"] = given["random_seed"]
    config.parse(settings)
    return Translation(settings, [*notes, say.RATE, say.CHOICE])


def taken(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags of a training, with the values that are taken for those not given."""
    return UNSAID | RECIPE | flags


def _aside(flags: dict[str, Any], notes: list[str]) -> None:
    """Refuse what has no equivalent; note what is not carried over."""
    for name, value in FIXED.items():
        if flags.get(name, value) != value:
            raise UserError(f"--{name} {flags[name]:g} has no equivalent; expected {value:g} (one device, all images)")
    scheme = flags.get("scheme", UNSAID["scheme"])
    if "epoch" not in scheme:
        raise UserError(
            f"--scheme {scheme} trains nothing in the published code, which trains only under names with 'epoch' in "
            "them; write V2_epoch, or leave it out"
        )
    fresh = ("load_from_checkpoint", "load_from_checkpoint_server", "finetune_freeze_bn")
    notes += [say.FRESH.format(name) for name in fresh if name in flags]
    notes += [say.FOLDERS] if {"filename", "folder"} & flags.keys() else []
    notes += [say.SCHEME.format(scheme)] if scheme != UNSAID["scheme"] else []
    notes += [say.SOURCE] if "transfer_source_task" in flags else []
    notes += [say.ONE_DEVICE.format(name) for name in ("initialize_different", "decoder_sync") if name in flags]
    notes += [say.MORE_CHECKPOINTS] if "save_more_checkpoints" in flags else []


def _counting(flags: dict[str, Any], defense: list[str]) -> set[str]:
    """Return which of the options that count only beside others do count."""
    proxies = [spec for spec in defense if spec.startswith("adversarial")]
    found = {"AT_regularization_strength"} if flags.get("AT_regularization", "None") != "None" else set()
    found |= {"regularization_strength"} if flags.get("regularization", "None") != "None" else set()
    found |= {"var_threshold", "log_entropy", "regularization_strength"} if flags.get("lambd") else set()
    found |= {"gan_AE_type", "gan_loss_type"} if proxies else set()
    return found | ({"ssim_threshold"} if any("threshold=" in spec and "=ssim" in spec for spec in proxies) else set())


def _not_given(flags: dict[str, Any], given: dict[str, Any], counting: set[str]) -> list[str]:
    """Return which values that count are neither given nor the published parser's."""
    always = ("arch", "num_epochs", "learning_rate", "random_seed")
    names = [name for name in PARSER if name not in flags and (name in always or name in counting)]
    said = ", ".join(f"{name} {_short(given[name])} ({_short(PARSER[name])})" for name in names)
    return [say.DEFAULTS.format(said)] if said else []


def _unread(flags: dict[str, Any], counting: set[str]) -> list[str]:
    names = ", ".join(f"--{name}" for name in flags if name in BESIDE and name not in counting)
    return [say.UNREAD.format(names)] if names else []


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _dataset(name: str) -> str:
    if name.partition(":")[0] in (*DATASETS, "digits", "folder"):
        return name
    if name in ELSEWHERE:
        raise UserError(f"--dataset {name} is not included; give its images as a folder: --dataset folder:PATH")
    raise unknown_value("dataset", name, DATASETS)


def _architecture(given: dict[str, Any], reading: Reading, notes: list[str]) -> str:
    """Return our network; with the code's reading the published form of it where that is another one."""
    name, code = given["arch"], reading == "code"
    bottleneck = read_bottleneck(given["bottleneck_option"])
    long = bottleneck is not None and bottleneck.stride > 2
    if name in RESNETS:
        notes.append(say.RESNET.format(name, "" if code else ", here 3×3 (`--reading code` for 5×5)"))
        return f"{name}_released" if code and long else f"{name}{'_stem5' if code else ''}_sgm"
    if name not in ARCHITECTURES and not name.endswith("_sgm"):
        raise unknown_value("arch", name, ARCHITECTURES)
    other = []
    if name in VGGS and not name.endswith("_sgm") and bottleneck is not None:
        other.append(say.BATCH_NORM)
    if name in VGGS and given["dataset"] == "tinyimagenet":
        other.append(say.HEAD)
    if name == "mobilenetv2":
        other.append(say.MOBILE)
    notes += [note.format(name, ", as here" if code else "; here not (`--reading code` for that)") for note in other]
    return f"{name}_released" if code and (other or (long and name in VGGS)) else name


def _bottleneck(option: str, reading: Reading, notes: list[str]) -> dict[str, Any]:
    bottleneck = read_bottleneck(option)
    if bottleneck is None:
        return {}
    if bottleneck.stride > 2:
        here = ", as here" if reading == "code" else "; here one convolution (`--reading code` for the chain)"
        notes.append(say.CHAIN.format(bottleneck.stride, here))
    if bottleneck.stride > 1 and "K" in option:
        notes.append(say.KERNEL.format(option))
    return {
        "bottleneck": bottleneck.channels,
        "bottleneck_stride": bottleneck.stride,
        "bottleneck_kernel": bottleneck.kernel,
        "bottleneck_relu": bottleneck.relu,
    }


def _schedule(epochs: int, reading: Reading, notes: list[str]) -> dict[str, Any]:
    if epochs in (120, 240):  # the published code knows these two lengths
        return {}
    if reading == "paper":
        notes.append(say.MILESTONES.format(epochs))
        return {}
    return {"milestones": [round(m / epochs, 6) for m in MILESTONES if m < epochs]}
