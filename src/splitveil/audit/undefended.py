"""The network whose cuts are audited: named, and then trained once without a defense; or that of a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import config
from ..data import ImageSet
from ..errors import UserError
from ..runs import Run, build_model
from ..training import trainer
from .recut import address, network_of, whole


def settings_of(network: str, images: ImageSet, **given: Any) -> config.TrainConfig:
    """Return the settings of a short training of a network without bottleneck and defense.

    Args:
        network: a name of the zoo, or ``torchvision:NAME``, ``timm:NAME``.
        images: image set of the training.
        given: ``data``, ``root``, ``epochs``, ``seed``, ``train_size`` and ``test_size`` of `config.TrainConfig`.

    Raises:
        UserError: an unknown network, one that cannot be cut elsewhere, or settings out of their range.
    """
    values = {"recipe": "fast", **{name: value for name, value in given.items() if value is not None}}
    if ":" not in network:
        if "_released" in network:
            raise UserError(
                f"{network} is built for one cut of the published code; name {network.partition('_released')[0]}, or "
                "another network without _sgm"
            )
        return config.parse(values | {"arch": network, "cut": 1}).resolve()
    if not address(network)[2]:
        layers = whole(network, len(images.classes), images.size).layers
        if not layers:
            raise UserError(f"{network} has no layer after which it can be cut; name one: {network}@LAYER")
        source, name, _, order = address(network)
        network = f"{source}:{name}@{layers[0]}" + (f":{order}" if order else "")
    return config.parse(values | {"arch": network}).resolve()


def check(settings: config.TrainConfig, images: ImageSet, layers: str) -> None:
    """Find out, before a training, whether a network can be cut at these layers.

    Args:
        settings: of the training.
        images: image set of the training.
        layers: "all", or names of layers with commas between them.

    Raises:
        UserError: it cannot.
    """
    network_of(build_model(settings, images), settings.arch, images.size).chosen(layers)


def trained(
    settings: config.TrainConfig,
    images: ImageSet,
    out: Path,
    *,
    resume: bool = False,
    progress: trainer.Progress | None = None,
) -> Run:
    """Train a network once, and return its run.

    Args:
        settings: of `settings_of`.
        images: image set of the settings.
        out: run folder that is made.
        resume: go on with a training that was stopped.
        progress: called after each step, as that of a training.
    """
    trainer.fit(settings, images, out, resume=resume, progress=progress)
    return Run.open(out)
