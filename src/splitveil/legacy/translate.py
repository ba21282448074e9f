"""From published options to the settings of a training, with notes where the code did otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from .. import config
from ..errors import UserError, did_you_mean
from . import notes as say
from .options import FIXED, DefenseOption, read_bottleneck, read_defense, read_flags

Reading = Literal["paper", "code"]
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
"""The published run_exp.sh, for options that are not given (the parser has other defaults)."""
DATASETS = ("cifar10", "cifar100", "facescrub", "tinyimagenet")
ELSEWHERE = ("svhn", "mnist", "fmnist", "celeba", "imagenet")
VGGS = ("vgg11", "vgg11_bn", "vgg11_bn_sgm", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn")
RESNETS = ("resnet20", "resnet32")
ARCHITECTURES = (*VGGS, *RESNETS, "mobilenetv2")
GAUSSIAN = ("Gaussian", "Gaussian_kl", "Gaussian_Nonekl")
MILESTONES = (60, 120, 180, 210, 260)


@dataclass(frozen=True)
class Translation:
    """Settings for `splitveil train --config`, and what must be known about them.

    Attributes:
        settings: plain values of a `TrainConfig`, only those that the options say or imply.
        notes: one line for each place where the published code did something else than it said.
        attack: the published attack as `name:key=value`, where a script runs one.
    """

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    attack: str | None = None

    def to_yaml(self) -> str:
        """YAML that `splitveil train --config` reads; the notes and the attack are comments."""
        return comments(self.notes, self.attack) + yaml.safe_dump(self.settings, sort_keys=False)


def comments(notes: Sequence[str], attack: str | None) -> str:
    """The head of a YAML file: one comment line for each note."""
    lines = [f"# note: {note}\n" for note in notes]
    if attack:
        lines.append(f"# the published attack: splitveil attack RUN --attack {attack}\n")
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
    """The same for typed flags, as `read_flags` returns them."""
    if reading not in ("paper", "code"):
        hint = did_you_mean(reading, ("paper", "code")) or ";"
        raise UserError(f"--reading is '{reading}'{hint} expected paper or code")
    notes: list[str] = []
    _refuse(flags, notes)
    given = RECIPE | flags
    settings: dict[str, Any] = {"data": _dataset(given["dataset"])}
    settings["arch"] = _architecture(given, reading, notes)
    settings["cut"] = given["cutlayer"]
    settings |= _bottleneck(flags.get("bottleneck_option", "None"), reading, notes)
    if settings["arch"] == "mobilenetv2_released" and "bottleneck" in settings:
        settings["bottleneck_relu"] = True
    settings["defense"] = _defenses(flags, given, reading, notes)
    settings |= {
        "epochs": given["num_epochs"],
        "batch_size": given["batch_size"],
        "lr": given["learning_rate"],
    }
    settings |= _schedule(given["num_epochs"], reading, notes)
    settings["seed"] = given["random_seed"]
    config.parse(settings)
    return Translation(settings, [*notes, say.RATE, say.CHOICE])


def _refuse(flags: dict[str, Any], notes: list[str]) -> None:
    for name, value in FIXED.items():
        if flags.get(name, value) != value:
            raise UserError(f"--{name} {flags[name]:g} has no equivalent; expected {value:g} (one device, all images)")
    notes += [say.FRESH.format(name) for name in ("load_from_checkpoint", "finetune_freeze_bn") if name in flags]


def _dataset(name: str) -> str:
    if name.partition(":")[0] in (*DATASETS, "digits", "folder"):
        return name
    if name in ELSEWHERE:
        raise UserError(f"--dataset {name} is not included; give its images as a folder: --dataset folder:PATH")
    raise _unknown("dataset", name, DATASETS)


def _architecture(given: dict[str, Any], reading: Reading, notes: list[str]) -> str:
    """Our network; with the code's reading the published form of it where that is another one."""
    name, code = given["arch"], reading == "code"
    bottleneck = read_bottleneck(given.get("bottleneck_option", "None"))
    long = bottleneck is not None and bottleneck.stride > 2
    if name in RESNETS:
        notes.append(say.RESNET.format(name, "" if code else ", here 3×3 (`--reading code` for 5×5)"))
        return f"{name}_released" if code and long else f"{name}{'_stem5' if code else ''}_sgm"
    if name not in ARCHITECTURES and not name.endswith("_sgm"):
        raise _unknown("arch", name, ARCHITECTURES)
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


def _defenses(flags: dict[str, Any], given: dict[str, Any], reading: Reading, notes: list[str]) -> list[str]:
    option = read_defense(flags.get("AT_regularization", "None"))
    strength, kind = given["AT_regularization_strength"], flags.get("regularization", "None")
    sigma = 0.0
    if kind in GAUSSIAN:
        sigma = _sigma(kind, flags, notes)
    elif kind != "None":
        older = _older(kind, option, reading, notes)
        if older is not None:
            option, strength = older, flags.get("regularization_strength", strength)
    if "AT_regularization_strength" not in flags and option.text == flags.get("AT_regularization"):
        notes += [say.GIVEN.format(strength)] if option.parts else []
    if option.parts and not strength:
        notes.append(say.OFF.format(option.text))
    if strength < 0 or sigma < 0:
        raise UserError(f"a strength is {min(strength, sigma):g}; expected 0 or more, 0 switches the part off")
    before, after = _parts(option, strength, given, reading, notes) if strength else ([], [])
    noise = [f"gaussian:sigma={sigma:g}"] if sigma else []
    return before + noise + after + _cem(flags, given, sigma, reading, notes)


def _sigma(kind: str, flags: dict[str, Any], notes: list[str]) -> float:
    if "regularization_strength" not in flags:
        raise UserError(
            f"--regularization {kind} has no strength; give its standard deviation: --regularization_strength 0.025"
        )
    if kind != "Gaussian":
        notes.append(say.ONLY_GAUSSIAN.format(kind))
    if flags["regularization_strength"]:
        notes.append(say.STANDARD_DEVIATION)
    return flags["regularization_strength"]


def _older(kind: str, option: DefenseOption, reading: Reading, notes: list[str]) -> DefenseOption | None:
    """ResSFL's scripts put the defense into --regularization, which the CEM code reads for Gaussian only."""
    try:
        older = read_defense(kind, "regularization")
    except UserError:
        raise _unknown("regularization", kind, (*GAUSSIAN, "None", "gan_adv_step1", "dropout0.2")) from None
    if reading == "code":
        notes.append(say.NO_EFFECT.format(kind))
        return None
    if option.parts:
        raise UserError(f"two defenses: --regularization {kind} and --AT_regularization {option.text}; give one")
    notes.append(say.OLDER.format(kind))
    return older


def _cem(flags: dict[str, Any], given: dict[str, Any], sigma: float, reading: Reading, notes: list[str]) -> list[str]:
    weight = flags.get("lambd", 0.0)
    if weight < 0:
        raise UserError(f"--lambd is {weight:g}; expected λ of 0 or more")
    if "lambd" not in flags and sigma:
        notes.append(say.NO_LAMBDA)
    if not weight:
        return []
    notes += [] if sigma else [say.NO_NOISE]
    notes += [] if given["log_entropy"] else [say.LINEAR]
    notes += [say.NO_BOUND, say.LOOKUP]
    parts = [f"weight={weight:g}", "loss=released", f"threshold={given['var_threshold']:g}"]
    if reading == "code":
        parts.append("refit=augmented")
        if "sgm" not in flags.get("arch", RECIPE["arch"]):
            parts.append("clusters=15")
            notes.append(say.CLUSTERS.format(given["arch"]))
    return ["cem:" + ",".join(parts)]


def _parts(
    option: DefenseOption, strength: float, given: dict[str, Any], reading: Reading, notes: list[str]
) -> tuple[list[str], list[str]]:
    """Specs that stand before and after the noise on the wire."""
    parts, code = option.parts, reading == "code"
    before, after = [], []
    if "pruning" in parts:
        before.append(f"patrol:epoch={int(parts['pruning'] or 140)}")
        notes += [say.PRUNED] if parts["pruning"] else [say.NO_EPOCH, say.PRUNED]
    if "sparse" in parts:
        before += _sparse(given, code, notes)
    if "dropout" in parts:
        ratio = strength if parts["dropout"] is None else parts["dropout"]
        after.append(f"dropout:ratio={ratio:g}" + (",rescale=false" if code else ""))
        notes += [say.UNSEEN.format("dropout")] + ([] if code else [say.SCALE])
    if "topkprune" in parts:
        zeroed = strength if parts["topkprune"] is None else parts["topkprune"] or 0.0
        after.append(f"topk:ratio={round(1 - zeroed, 6):g}" + (",scope=released" if code else ""))
        notes += [
            say.UNSEEN.format("topkprune"),
            say.ZEROED,
            say.TOPK.format("" if code else "; here of an image"),
        ]
    for name, mechanism in (("local_dp", "gaussian"), ("laplace", "laplace")):
        if name in parts:
            after.append(f"local_dp:epsilon={strength:g},mechanism={mechanism}")
            notes += [say.UNSEEN.format("local_dp"), say.CLIPPED]
    if "gan_adv" in parts:
        after.append(_adversarial(option, strength, given, reading, notes))
    if "nopeek" in parts:
        weight = nopeek_weight(strength, given["dataset"])
        squared = ",squared=true" if "ttitcombe" in option.text else ""
        after.append(f"nopeek:weight={weight:g}{squared}" + (",normalized=true" if code else ""))
        notes += [] if code else [say.NORMALIZED]
        notes += [] if weight == strength else [say.WEAKER.format(given["dataset"])]
    return before, after


def nopeek_weight(strength: float, data: str) -> float:
    """Weight of distance correlation in the published code: its strength on CIFAR-10, a tenth of it elsewhere.

    >>> nopeek_weight(0.3, "cifar10"), nopeek_weight(0.3, "facescrub")
    (0.3, 0.03)
    """
    return strength if data == "cifar10" else round(strength / 10, 9)


def _sparse(given: dict[str, Any], code: bool, notes: list[str]) -> list[str]:
    resnet, other = given["arch"].startswith("resnet"), " (`--reading code` for that layer)"
    has_layer = given["arch"] in ("vgg11_bn_sgm", "resnet20", "resnet20_sgm")
    if not has_layer or given.get("bottleneck_option", "None") == "None":
        where = given["arch"] if not has_layer else f"{given['arch']} without one"
        notes.append(say.NO_LCA.format(where, "" if code else "; here there is one (`--reading code`: none)"))
        if code:
            return []
    notes.append(say.SPARSE)
    notes.append((say.CONV_LCA if resnet else say.RELEASED_LCA).format("" if code else other))
    if code and resnet:
        return ["sparse_coding_conv_released"]
    if code:
        return ["sparse_coding_released:threshold=0.01" + (",atoms=1024" if given["dataset"] == "facescrub" else "")]
    if resnet:
        return ["sparse_coding:form=convolutional,kernel=5"]
    return ["sparse_coding:threshold=0.01,form=dense,iterations=1"]


def _adversarial(
    option: DefenseOption, strength: float, given: dict[str, Any], reading: Reading, notes: list[str]
) -> str:
    loss, network = given["gan_loss_type"], decoder_network(given["gan_AE_type"], notes)
    if loss not in ("SSIM", "MSE"):
        raise _unknown("gan_loss_type", loss, ("SSIM", "MSE"))
    objective = "objective=mse" if loss == "MSE" else "objective=ssim,padding=zero"  # its threshold's scale
    notes.append(say.PROXY)
    if "noise" in option.parts:
        notes.append(say.PROXY_NOISE)
        return f"adversarial_noise:size={strength:g},network={network},{objective}"
    notes.append(say.PRETRAIN)
    said, done = int(option.parts.get("step") or 3), option.steps_of_code
    if said != done:
        wording = f"{said} decoder step{'s' * (said > 1)}"
        how = ", as here" if reading == "code" else f" (`--reading code` for {done})"
        notes.append(say.STEPS.format(option.text, wording, done, how))
    steps = done if reading == "code" else said
    return (
        f"adversarial:weight={strength:g},steps={steps},share=1,network={network},"
        f"{objective},threshold={given['ssim_threshold']:g}"
    )


def decoder_network(name: str, notes: list[str]) -> str:
    """Our name of a published decoder; a note where ours is another network.

    >>> decoder_network("custom", []), decoder_network("res_normN4C64", [])
    ('custom_released', 'res_normN4C64')
    """
    notes += [say.CONV_NORM.format(name)] if name.startswith("conv_normN") else []
    return "custom_released" if name == "custom" else name


def _unknown(flag: str, value: str, options: Sequence[str]) -> UserError:
    hint = did_you_mean(value, options) or ";"
    return UserError(f"--{flag} '{value}' is unknown{hint} expected one of: {', '.join(options)}")
