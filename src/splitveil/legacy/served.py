"""The defenses of a checkpoint as its network was trained and validated with them, and notes on them."""

from __future__ import annotations

import re

from torch import Tensor

from .. import config
from ..errors import UserError
from . import notes as say
from .specs import gaussian_variance, released_noise
from .tensors import leaf
from .translate import Translation

REBUILT = (
    say.RESNET,
    say.BATCH_NORM,
    say.HEAD,
    say.MOBILE,
    say.CHAIN,
    say.CLIPPED,
    say.DP_GAUSSIAN,
    say.SCALE,
    say.TOPK,
    say.SPARSE,
    say.RELEASED_LCA,
    say.CONV_LCA,
)
"""Notes on what differs here from the published network: an imported one is that network."""


def as_served(translation: Translation, tensors: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Return the specs of the defenses, and the notes that are not made void by the import.

    Args:
        translation: of the published options.
        tensors: of the device part; they say whether there is a sparse-coding layer.

    Raises:
        UserError: a defense whose state is not in the files decides what crosses the wire.
    """
    notes = [note for note in translation.notes if not any(_says(note, template) for template in REBUILT)]
    specs = _sparse_layers(tensors)
    told = [config.Spec.model_validate(text) for text in translation.settings["defense"]]
    if not specs and any(spec.name.startswith("sparse_coding") for spec in told):
        notes.append(
            "SCA is said and the files hold no layer of it: the published code has one behind a bottleneck of "
            "vgg11_bn_sgm and resnet20 only; none is imported"
        )
    for text, spec in zip(translation.settings["defense"], told, strict=True):
        if not spec.name.startswith("sparse_coding"):
            specs.append(_served(text, spec, notes))
    before, after = gaussian_variance(translation.settings["defense"]), gaussian_variance(specs)
    if after and before != after:
        specs = [_of_other_noise(text, before / after) for text in specs]
    return specs, notes


def _of_other_noise(text: str, factor: float) -> str:
    """Return `cem` such that its clusters are left alone below the same variance as before; others as they are."""
    spec = config.Spec.model_validate(text)
    if spec.name != "cem":
        return text
    values = spec.parameters | {"threshold": f"{spec.parameters['threshold'] * factor:g}"}
    return "cem:" + ",".join(f"{name}={value}" for name, value in values.items())


def _served(text: str, spec: config.Spec, notes: list[str]) -> str:
    values = dict(spec.parameters)
    if spec.name == "topk":
        notes.append(say.TOPK.format(", as this run does: an image's wire depends on the images beside it"))
        return f"topk:ratio={values['ratio']:g},scope=released"
    if spec.name == "dropout":
        return f"dropout:ratio={values['ratio']:g},rescale=false"
    if spec.name == "local_dp":
        served = released_noise(values["epsilon"], values["mechanism"])
        notes.append(say.DP_RELEASED.format(served))
        return served
    if spec.name == "adversarial_noise":
        raise UserError(
            "gan_adv_noise moves every entry of the wire by the sign that its proxy decoder says, and the files hold "
            "no proxy, so that the wire cannot be rebuilt; import the bare network with --AT_regularization None, or "
            "train it anew: splitveil legacy --AT_regularization gan_adv_noise"
        )
    if spec.name == "patrol":
        return f"{text},double=false"  # the doubled layer is a part of the imported network
    if spec.name == "adversarial":
        notes.append("the files hold no proxy decoder: it starts anew; nothing but a further training needs it")
    return text


def _sparse_layers(tensors: dict[str, Tensor]) -> list[str]:
    """Return the published sparse-coding layer where the file has its matrix W or its atoms, else none."""
    found = []
    for name, value in tensors.items():
        if leaf(name) == "W":
            found.append(f"sparse_coding_released:threshold=0.01,atoms={value.shape[0]}")
        elif leaf(name) == "weights" and value.ndim == 4:
            found.append(f"sparse_coding_conv_released:kernel={value.shape[-1]}")
    return found


def _says(note: str, template: str) -> bool:
    """Return whether `note` is `template` with its gaps filled."""
    fixed = (re.escape(part) for part in re.split(r"{[^}]*}", template))
    return re.fullmatch(".*".join(fixed), note) is not None
