"""The translation of a published defense string, with notes where the published code did otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .. import config
from ..defenses.local_dp import gaussian_sigma
from ..errors import UserError, nearest
from . import notes as say
from .attack import decoder_network
from .defense import ALIKE, DefenseOption, as_published, read_defense
from .options import Reading, unknown_value
from .wire import shrinking

GAUSSIAN = ("Gaussian", "Gaussian_kl", "Gaussian_Nonekl")
DELTA = 1e-4
"""δ of the published Gaussian mechanism."""
OURS = 1e-5
"""δ of ours, by default."""


def defenses(flags: dict[str, Any], given: dict[str, Any], reading: Reading, notes: list[str]) -> list[str]:
    """Return the stack of defenses, as `name:key=value`.

    Args:
        flags: as given.
        given: the same with the values taken for those not given.
        reading: "paper" or "code".
        notes: takes what must be known.

    Raises:
        UserError: a defense or a value that has no equivalent.
    """
    option = read_defense(given["AT_regularization"])
    strength, kind = given["AT_regularization_strength"], given["regularization"]
    sigma, floor = 0.0, given["regularization_strength"]  # all that the published clusters know
    if kind in GAUSSIAN:
        sigma = _sigma(kind, flags, notes)
    elif kind != "None":
        older = _older(kind, option, reading, notes)
        if older is not None:
            option, strength, floor = older, flags.get("regularization_strength", strength), 0.0
    if "AT_regularization_strength" not in flags and option.text == flags.get("AT_regularization"):
        notes += [say.GIVEN.format(strength)] if option.parts else []
    for word, owner in option.ignored.items():
        notes.append(say.IGNORED.format(option.text, as_published(option.text), word, owner))
    if option.parts and not strength:
        notes.append(say.OFF.format(option.text))
    if strength < 0 or sigma < 0:
        raise UserError(f"a strength is {min(strength, sigma):g}; expected 0 or more, 0 switches the part off")
    before, after = _parts(option, strength, given, reading, notes) if strength else ([], [])
    noise = [f"gaussian:sigma={sigma:g}"] if sigma else []
    found = before + noise + after
    return found + _cem(flags, given, floor, gaussian_variance(found), reading, notes)


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
    """Return the defense that ResSFL's scripts put into --regularization; the CEM code reads Gaussian only there."""
    try:
        older = read_defense(kind, "regularization")
    except UserError as error:
        if "Gaussian" in kind:
            hint = "the published code reads it as Gaussian: write Gaussian for that"
        elif near := nearest(kind, GAUSSIAN, ALIKE):
            hint = f"did you mean '{near}'?"
        else:
            raise error from None
        expected = f"expected {', '.join(GAUSSIAN)} or None"
        raise UserError(f"--regularization '{kind}' is unknown; {hint}; {expected}") from None
    if reading == "code":
        notes.append(say.NO_EFFECT.format(kind))
        return None
    if option.parts:
        raise UserError(f"two defenses: --regularization {kind} and --AT_regularization {option.text}; give one")
    notes.append(say.OLDER.format(kind))
    return older


def _cem(
    flags: dict[str, Any], given: dict[str, Any], floor: float, variance: float, reading: Reading, notes: list[str]
) -> list[str]:
    """Return `cem`, whose clusters are left alone below τ·floor², whatever other noise of this variance is there."""
    weight = flags.get("lambd", 0.0)
    if weight < 0:
        raise UserError(f"--lambd is {weight:g}; expected λ of 0 or more")
    if "lambd" not in flags:
        notes.append(say.NO_LAMBDA)
    if not weight:
        return []
    strength, threshold = given["regularization_strength"], given["var_threshold"]
    if not strength:
        notes.append(say.NO_NOISE)
    elif not variance or floor != strength:
        notes.append(say.NO_FLOOR.format(strength))
    if variance and not math.isclose(variance, floor**2):
        threshold *= floor**2 / variance
        notes += [say.DP_FLOOR.format(floor)] if floor == strength else []
    notes += [] if given["log_entropy"] else [say.LINEAR]
    notes += [say.NO_BOUND, say.LOOKUP]
    parts = [f"weight={weight:g}", "loss=released", f"threshold={threshold:g}"]
    if reading == "code":
        parts.append("refit=augmented")
        if "sgm" not in given["arch"]:
            parts.append("clusters=15")
            notes.append(say.CLUSTERS.format(given["arch"]))
    return ["cem:" + ",".join(parts)]


def gaussian_variance(specs: Iterable[str]) -> float:
    """Return the variance of all Gaussian noise of these defenses, which `cem` multiplies its threshold by.

    >>> gaussian_variance(["gaussian:sigma=0.3", "laplace:scale=1", "gaussian:sigma=0.4"])
    0.25
    """
    total = 0.0
    for spec in map(config.Spec.model_validate, specs):
        values = spec.parameters
        if spec.name == "gaussian":
            total += values["sigma"] ** 2
        elif spec.name == "local_dp" and values["mechanism"] == "gaussian":
            total += gaussian_sigma(1, values["epsilon"], OURS) ** 2
    return total


def _parts(
    option: DefenseOption, strength: float, given: dict[str, Any], reading: Reading, notes: list[str]
) -> tuple[list[str], list[str]]:
    """Return the specs that stand before and after the noise on the wire."""
    parts, code = option.parts, reading == "code"
    before, after = [], []
    if "pruning" in parts:
        before.append(f"patrol:epoch={_pruning_epoch(option, code, notes)}")
        notes.append(say.PRUNED)
    if "SCA" in parts:
        before += _sparse(given, code, notes)
    if "local_dp" in parts:  # before what sets entries to zero, which stays visible so
        notes.append(say.UNSEEN.format("local_dp"))
        after.append(_local_dp(strength, "laplace" if "laplace" in parts else "gaussian", code, notes))
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
    if "gan_adv" in parts:
        after.append(_adversarial(option, strength, given, reading, notes))
    if "nopeek" in parts:
        weight = nopeek_weight(strength, given["dataset"])
        squared = ",squared=true" if "ttitcombe" in parts else ""
        after.append(f"nopeek:weight={weight:g}{squared}" + (",normalized=true" if code else ""))
        notes += [] if code else [say.NORMALIZED]
        notes += [] if weight == strength else [say.WEAKER.format(given["dataset"])]
    return before, after


def _pruning_epoch(option: DefenseOption, code: bool, notes: list[str]) -> int:
    said, done = option.parts["pruning"], option.epoch_of_code
    if said is None:
        notes.append(say.NO_EPOCH)
    elif said != done:
        how = ", as here" if code else f" (`--reading code` for {done})"
        notes.append(say.PRUNED_AT.format(option.text, int(said), done, how))
    return done if code or said is None else int(said)


def _local_dp(epsilon: float, mechanism: str, code: bool, notes: list[str]) -> str:
    released = released_noise(epsilon, mechanism)
    if code:
        notes.append(say.DP_RELEASED.format(released))
        return released
    if mechanism == "laplace":
        notes.append(say.CLIPPED)
    else:
        sigma = float(released.partition("=")[2])
        notes.append(say.DP_GAUSSIAN.format(epsilon, sigma, gaussian_sigma(1, epsilon, OURS)))
    return f"local_dp:epsilon={epsilon:g},mechanism={mechanism}"


def released_noise(epsilon: float, mechanism: str) -> str:
    """Return the noise that the published local_dp adds, as a defense of ours.

    >>> released_noise(10, "laplace"), released_noise(10, "gaussian")
    ('laplace:scale=0.1', 'gaussian:sigma=0.43436123')
    """
    if mechanism == "laplace":
        return f"laplace:scale={1 / epsilon:.9g}"
    return f"gaussian:sigma={math.sqrt(2 * math.log(1.25 / DELTA)) / epsilon:.9g}"


def nopeek_weight(strength: float, data: str) -> float:
    """Return the published weight of distance correlation: its strength on CIFAR-10, a tenth of it elsewhere.

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
        raise unknown_value("gan_loss_type", loss, ("SSIM", "MSE"))
    objective = "objective=mse" if loss == "MSE" else "objective=ssim,padding=zero"  # its threshold's scale
    if network.startswith("res_normN") and (shrinking(given) or 4) < 4:
        notes.append(say.RES_NORM.format(network))
    notes.append(say.PROXY)
    if "noise" in option.parts:
        notes.append(say.PROXY_NOISE)
        return f"adversarial_noise:size={strength:g},network={network},{objective}"
    notes.append(say.PRETRAIN)
    step, done = option.parts.get("step"), option.steps_of_code
    said = 3 if step is None else int(step)
    if said != done:
        wording = f"{said} decoder step{'s' * (said > 1)}"
        how = ", as here" if reading == "code" else f" (`--reading code` for {done})"
        notes.append(say.STEPS.format(option.text, wording, done, how))
    steps = done if reading == "code" else said
    return (
        f"adversarial:weight={strength:g},steps={steps},share=1,network={network},"
        f"{objective},threshold={given['ssim_threshold']:g}"
    )
