"""Whether an image's wire depends on the images beside it: what was attacked in batches is then not what is served."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..defenses.base import Stack
from ..model import SplitModel

LOOKS = 128
"""Number of draws of the defense's noise that are averaged where the wires of one image are compared."""
ALONE, COMPARED = 4, 8192
"""Least number of images that are sent alone, and of numbers of their wires: all images up to 512 numbers, as another
image in the batch does not change every wire, and fewer where the wires are long and each look is slow."""
MARGIN = 0.25
"""Relative difference of variances, and correlation between images, that is allowed beyond chance."""
CHANCE = 5.0
"""Deviations beyond which a difference is no chance."""
Send = Callable[[Tensor, torch.Generator], Tensor]
"""Features (B, ...) and a generator -> what follows from them, (B, ...)."""


@torch.no_grad()
def depends_on_company(model: SplitModel, x: Tensor) -> bool:
    """Return whether an image's wire or its noise differs between a batch and alone, beyond chance.

    The encoder, and each part of a stack that draws nothing, are also looked at by themselves, as the noise of other
    parts may hide what they do.

    Args:
        model: with its defense.
        x: pixels (B, C, S, S).
    """
    features = Company(model.features(x), [model.features(one) for one in x.split(1)])
    if features.differs():
        return True
    made = features
    for send in _parts(model):
        if send(made.batch, _seeded(made, 0)).equal(send(made.batch, _seeded(made, 1))):
            made = made.sent(send, 0)
            if made.differs():
                return True
        elif send(made.batch, _seeded(made, 0)).shape != made.batch.shape:
            break  # the next part takes what this one makes
    return _drawn(model.protect, features)


def _parts(model: SplitModel) -> Iterator[Send]:
    parts = list(model.defense) if isinstance(model.defense, Stack) else []
    return (part.on_wire for part in parts)


@dataclass(frozen=True)
class Company:
    """Images that went through something in one batch (B, ...), and one by one."""

    batch: Tensor
    alone: list[Tensor]

    def sent(self, send: Send, seed: int) -> Company:
        """Return them after one more step that draws nothing."""
        return Company(send(self.batch, _seeded(self, seed)), [send(one, _seeded(self, seed)) for one in self.alone])

    def differs(self) -> bool:
        """Return whether an image's numbers differ, by more than rounding and a hundredth of their variance."""
        batch, alone = self.batch.double(), torch.cat(self.alone).double()
        return float((batch - alone).square().mean()) > _tolerance(batch)


def _seeded(made: Company, seed: int) -> torch.Generator:
    return torch.Generator(made.batch.device).manual_seed(seed)


def _tolerance(mean: Tensor) -> float:
    """Return which mean squared difference of wires (B, ...) does not matter.

    Rounding differs with the batch and may flip a comparison, and a wire may be all but constant.
    """
    return 0.01 * float(mean.var(0).mean()) + 1e-10 * float(mean.square().mean())


def _drawn(send: Send, made: Company) -> bool:
    """Return whether means, variances or common noise of wires say that an image's wire depends on others.

    Each look has its own generator, and the spread of the looks says how far their means differ by chance.
    """
    first = send(made.batch, _seeded(made, 0))
    if first.equal(send(made.batch, _seeded(made, 1))):
        return made.sent(send, 0).differs()
    count = min(len(first), max(ALONE, -(-COMPARED // first[0].numel())))
    chosen = torch.linspace(0, len(first) - 1, count, device=first.device).long()
    seeds, whole = itertools.count(), torch.zeros_like(first, dtype=torch.float64)
    pairs: tuple[list[Tensor], ...] = ([], [])
    before: tuple[Tensor, ...] = ()
    totals = torch.zeros(5, count, *first.shape[1:], dtype=torch.float64)
    for _ in range(LOOKS):
        batch = send(made.batch, _seeded(made, next(seeds))).double()
        alone = torch.cat([send(made.alone[int(i)], _seeded(made, next(seeds))) for i in chosen]).double().cpu()
        whole += batch
        batch = batch[chosen].cpu()
        totals += torch.stack([batch, alone, batch.square(), alone.square(), batch * batch.roll(1, 0)])
        if before:
            for kept, look, earlier in zip(pairs, (batch, alone), before, strict=True):
                kept.append((look - earlier).square().flatten(1).mean(1) / 2)
        before = () if before else (batch, alone)
    together, apart, *squares, products = totals / LOOKS
    spread = squares[0] - together.square(), squares[1] - apart.square()
    chance = float((spread[0] + spread[1]).mean()) / (LOOKS - 1)
    if float((together - apart).square().mean()) > 1.5 * chance + _tolerance(whole / LOOKS):
        return True
    common = products - together * together.roll(1, 0)
    return _other_variance(*pairs) or (count > 2 and _correlated(common, spread[0]))


def _other_variance(together: list[Tensor], apart: list[Tensor]) -> bool:
    """Return whether the noise of an image is stronger or weaker in a batch.

    Of two looks half of the squared difference, averaged over an image's entries, is its noise's variance. How far that
    varies between pairs of looks says what is chance, also for noise that the entries of an image have in common.

    Args:
        together: for each pair of looks the variance of each image in a batch, (images,).
        apart: the same of images that are sent alone.
    """
    one, other = torch.stack(together), torch.stack(apart)
    chance = CHANCE * ((one.var(0) + other.var(0)) / len(one)).sqrt()
    difference, larger = (one.mean(0) - other.mean(0)).abs(), torch.maximum(one.mean(0), other.mean(0))
    return bool((difference > MARGIN * larger + chance).any())


def _correlated(common: Tensor, spread: Tensor) -> bool:
    """Return whether neighbors in a batch have noise in common: its covariance and variances by image and entry."""
    variance = spread.flatten(1).mean(1).clamp(min=0)
    scale = (variance * variance.roll(1, 0)).sqrt()
    least = MARGIN + CHANCE / (LOOKS * spread[0].numel()) ** 0.5
    return bool((common.flatten(1).mean(1) > least * scale)[scale > 0].any())
