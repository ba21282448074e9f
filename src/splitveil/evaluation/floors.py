"""Errors by which an attack is read: those that any attacker reaches in seconds, and the ceiling of a useful wire.

An attack that is not below the former says nothing. The ceiling is the error on a wire that tells the class and no
more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import metrics
from ..attacks.base import BATCH, Victim
from ..attacks.linear import LinearAttack
from ..data import Split, to_float
from ..data.protocol import some
from ..errors import UserError
from ..randomness import stream
from ..recipe import HELD_OUT

MOST_IMAGES, MOST_WEIGHTS = 2000, 2**27
"""Most attacker images that the linear attack learns from, and most entries of the wire times pixels: more is slow."""
CLASS_MEAN = "class_mean_mse"
"""Key of a summary, and column of ``per_image.csv``, for the error of `class_mean_error`."""


def linear_error(victim: Victim, own: Split, attacked: Split, wires: Tensor, seed: int) -> Tensor | None:
    """Return the MSE (N,) of a quick linear attack on the same wires.

    It learns from one look at `MOST_IMAGES` of the attacker's images at most, with a generator of its own.

    Args:
        victim: the attacker's view of the model.
        own: images that the attacker may learn from.
        attacked: images under attack.
        wires: what was seen of them, (N, ...).
        seed: seed of the attack.

    Returns:
        One error per image; None where the attack would take more than seconds, or lacks access.
    """
    weights = wires[0].numel() * attacked.images[0].numel()
    if len(own) < 5 or weights > MOST_WEIGHTS or LinearAttack.needs - victim.grants:
        return None
    attack, few = LinearAttack(looks=1), some(own, MOST_IMAGES, stream("cpu", seed, HELD_OUT, 1))
    attack.fit(victim.again(), few, stream(victim.device, seed, HELD_OUT))
    found = torch.cat([attack.reconstruct(part.to(victim.device)).cpu() for part in wires.split(BATCH)])
    return metrics.mse(found, to_float(attacked.images))


def mean_image_error(train: Split, test: Split) -> Tensor:
    """Return the MSE (N,) of answering the mean of ``train`` for each image of ``test``, which needs no wire.

    Args:
        train: images whose mean is answered.
        test: images that are scored.
    """
    total = torch.stack([part.double().sum(0) for part in train.images.split(4096)]).sum(0)
    mean = (total / len(train) / 255).float()
    truth = to_float(test.images)
    return metrics.mse(mean.expand_as(truth), truth)


def class_mean_error(own: Split, attacked: Split, classes: int | None = None) -> Tensor:
    """Return the MSE (N,) of answering, for each attacked image, the mean of the attacker's images of its true class.

    A wire that lets the cloud know the class lets the attacker know it too, and of all answers that depend on the class
    alone the mean of the class has the least squared error: it is what the most private useful wire leaves. The mean of
    n images has 1 + 1/n times the variance within the class as its expected error, so that few images of a class raise
    it, of very few above the error of the mean of all. An image of a class that the attacker has no image of is
    answered by the mean of all.

    Args:
        own: the attacker's images with their classes, at least one.
        attacked: images that are scored, with their true classes.
        classes: number of classes; None: as many as the labels name.

    Raises:
        UserError: no images of the attacker, or a label beyond ``classes``.

    >>> gray = lambda *levels: torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    >>> own = Split(gray(0, 102, 255), torch.tensor([0, 0, 1]))
    >>> [round(error, 4) for error in class_mean_error(own, Split(gray(0, 255), torch.tensor([0, 1]))).tolist()]
    [0.04, 0.0]
    """
    if not len(own):
        raise UserError("the mean image of a class got no images of the attacker; expected at least one")
    highest = int(torch.cat([own.labels, attacked.labels]).max())
    classes = highest + 1 if classes is None else classes
    if highest >= classes:
        raise UserError(f"the mean image of a class got label {highest} and {classes} classes; expected more classes")
    counts = torch.bincount(own.labels, minlength=classes).double()[:, None]
    sums = torch.zeros(classes, own.images[0].numel(), dtype=torch.float64)
    for images, labels in zip(own.images.split(BATCH), own.labels.split(BATCH), strict=True):
        sums.index_add_(0, labels, images.flatten(1).double())
    means = torch.where(counts > 0, sums / counts.clamp(min=1), sums.sum(0) / len(own)).float() / 255
    errors = [
        metrics.mse(means[labels].view(images.shape), to_float(images))
        for images, labels in zip(attacked.images.split(BATCH), attacked.labels.split(BATCH), strict=True)
    ]
    return torch.cat(errors)
