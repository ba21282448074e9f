"""Reasons not to trust an attack evaluation, each as one sentence that says what to do (the idea is AutoAttack's)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .attacks.base import Victim
from .data import Access, Split, to_float
from .metrics import paired_difference
from .split import SplitModel

SAMPLE = 16
"""Images on which the model's behavior is checked."""
LOOKS = 128
"""Draws of the defense's noise that are averaged where the wires of one image are compared."""
ALIKE = 2 / 255
"""Root mean squared difference, in pixels, below which two images are the same to the eye."""
COARSE = 8
"""Side to which images are averaged before near-duplicates are looked for."""
LOOKED_AT = 1000
"""Attacked images whose near-duplicates are looked for: the first."""


def no_better_than_the_mean(mse: Tensor, baseline: float) -> list[str]:
    """The attack's error (N,) is not below that of answering the mean training image."""
    if float(mse.mean()) < baseline:
        return []
    return ["the attack does no better than the mean training image: it may have failed, not the wire been private"]


@torch.no_grad()
def of_model(model: SplitModel, images: Split) -> list[str]:
    """What is wrong with the wire itself: noise that is claimed but never drawn, images that depend on each other.

    ``images``: any, of which 16 are sent.
    """
    x = to_float(images.images[:SAMPLE]).to(model.mean.device)
    first, second = _twice(model, x)
    found = []
    claimed = getattr(model.defense, "noise_variance", lambda: 0.0)()
    if claimed > 0 and torch.equal(first, second):
        found.append(
            f"the defense claims noise of variance {claimed:.3g}, but two looks at one image are equal: the wire "
            "that was attacked is not the one that is served; draw the noise from the generator in on_wire"
        )
    if _depends_on_company(model, x, draws=1 if torch.equal(first, second) else LOOKS):
        found.append(
            "an image's wire depends on the images beside it, so what was attacked in batches is not what is "
            "served one by one; make the defense act on each image alone"
        )
    return found


def _depends_on_company(model: SplitModel, x: Tensor, draws: int) -> bool:
    """Whether an image's mean wire over draws is another one in a batch than alone, beyond what noise explains.

    Each look has its own generator, and the spread of the looks says how far their means differ by chance.
    """
    z = model.features(x)
    single = [model.features(one) for one in x.split(1)]
    seeds = iter(range(draws * (1 + len(x))))
    totals = torch.zeros(4, *model.protect(z, torch.Generator(x.device).manual_seed(0)).shape, dtype=torch.float64)
    for _ in range(draws):
        batch = model.protect(z, torch.Generator(x.device).manual_seed(next(seeds)))
        alone = torch.cat([model.protect(one, torch.Generator(x.device).manual_seed(next(seeds))) for one in single])
        batch, alone = batch.double().cpu(), alone.double().cpu()
        totals += torch.stack([batch, alone, batch.square(), alone.square()])
    together, apart, *squares = totals / draws
    difference = float((together - apart).square().mean())
    spread = squares[0] - together.square() + squares[1] - apart.square()
    chance = float(spread.mean()) / max(1, draws - 1)
    # Rounding differs with the batch and may flip a comparison: only a difference that matters counts.
    rounding = 1e-10 * float(together.square().mean())  # of a wire that is all but constant
    return difference > 1.5 * chance + 0.01 * float(together.var(0).mean()) + rounding


@torch.no_grad()
def of_queries(model: SplitModel, victim: Victim, needs: frozenset[Access], images: Split) -> list[str]:
    """A stochastic defence attacked without fresh noise: the attack saw each of its images less than twice."""
    looks = victim.looks()
    if Access.WEIGHTS in needs or not 0 < looks < 2:
        return []
    first, second = _twice(model, to_float(images.images[:SAMPLE]).to(model.mean.device))
    if torch.equal(first, second):
        return []
    return [
        f"the defense is stochastic, but the attack had only {looks:.1f} looks at each of its images: it may have "
        "learned one draw of the noise; redraw it for every pass (more epochs or looks)"
    ]


def cut_short(cut: Mapping[str, tuple[int, int]]) -> list[str]:
    """The budget ended an optimisation before its time.

    >>> cut_short({"decoder": (30, 500)})
    ['the budget ended decoder after 30 of 500 steps: a real attacker has more; quote the budget with the figure']
    """
    parts = ", ".join(f"{name} after {done} of {wanted} steps" for name, (done, wanted) in cut.items())
    return [f"the budget ended {parts}: a real attacker has more; quote the budget with the figure"] if cut else []


def black_box_wins(values: dict[str, Tensor], needs: dict[str, frozenset[Access]]) -> list[str]:
    """The best attack without the weights beats the best with them, beyond the 95 % interval of their difference.

    ``values``: per-image MSE (N,) of each attack; ``needs``: its access.
    """
    white = {name: float(v.mean()) for name, v in values.items() if Access.WEIGHTS in needs[name]}
    black = {name: float(v.mean()) for name, v in values.items() if Access.WEIGHTS not in needs[name]}
    if not white or not black:
        return []
    best_white, best_black = min(white, key=lambda n: white[n]), min(black, key=lambda n: black[n])
    if paired_difference(values[best_white], values[best_black]).lo <= 0:
        return []
    return [
        f"{best_black}, which sees the wire only, beats {best_white}, which has the weights "
        f"({black[best_black]:.4g} against {white[best_white]:.4g}): gradients may be masked or steps too few; the "
        "white-box figure is no measure of this defense"
    ]


def near_duplicates(train: Split, test: Split) -> list[str]:
    """Attacked images that the attacker has all but a shade of (exact copies are refused by `Protocol`)."""
    count = int(alike(test.images[:LOOKED_AT], train.images).sum())
    if not count:
        return []
    looked = min(LOOKED_AT, len(test))
    return [
        f"{count} of {looked} attacked images have a near-duplicate among the attacker's (2 of 255 grey levels): "
        "they may be remembered, not reconstructed; remove them"
    ]


def alike(images: Tensor, others: Tensor) -> Tensor:
    """bool (N,): which of ``images`` (uint8, (N, 3, S, S)) are within `ALIKE` of one of ``others``, up to 2 of 255.

    Means over blocks are nearer to each other than the images are, so the coarse search misses none.

    >>> images = torch.tensor([10, 100]).view(2, 1, 1, 1).expand(2, 3, 8, 8).to(torch.uint8)
    >>> alike(images, images[:1] + 1)
    tensor([ True, False])
    """
    found = torch.zeros(len(images), dtype=torch.bool)
    side = COARSE if images.shape[-1] % COARSE == 0 else images.shape[-1]
    limit = ALIKE * (3 * side * side) ** 0.5
    ours = _coarse(images, side)
    for part in others.split(4096):
        near = torch.cdist(ours, _coarse(part, side), compute_mode="donot_use_mm_for_euclid_dist") <= limit * 1.01
        for i, j in near.nonzero().tolist():
            if not found[i]:
                found[i] = (to_float(images[i]) - to_float(part[j])).square().mean() <= ALIKE**2
    return found


def _coarse(images: Tensor, side: int) -> Tensor:
    return torch.cat([adaptive_avg_pool2d(to_float(part), side).flatten(1) for part in images.cpu().split(4096)])


def _twice(model: SplitModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Two looks at the same images from one generator, as a victim's queries follow each other."""
    rng = torch.Generator(x.device).manual_seed(0)
    return model.encode(x, rng).float(), model.encode(x, rng).float()
