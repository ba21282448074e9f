"""Reasons not to trust an attack evaluation, each as one sentence that says what to do (the idea is AutoAttack's)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..attacks.base import Victim
from ..data import Access, Split, to_float
from ..defenses._correlated import acting, sends_fewer
from ..defenses._law import law_of
from ..defenses.base import Stack
from ..defenses.codec import Codec
from ..model import SplitModel
from ..statistics.intervals import Interval, binomial_ci, paired_difference
from .company import depends_on_company
from .constant import constant_parts
from .offsets import untold

SAMPLE = 16
"""Number of images on which the model's behavior is checked."""
ALIKE = 2
"""Root mean squared difference, in levels of 255, up to which two images look the same."""
COARSE = 8
"""Side to which images are averaged before near-duplicates are looked for."""
NOISE_MARGIN = 0.1
"""Relative difference, beyond chance, that is allowed between the noise's variance and the one that is told."""
PAIRS = 8
"""Number of pairs of looks whose difference gives the variance of the noise."""
FALL, LEAST_CURVE = 0.01, 5
"""Relative fall of the error in the last tenth of a training that is too much, and least epochs to say so."""
SHIFT, SHIFTED = 2, 100
"""Most pixels by which near-duplicates may be shifted, and number of attacked images checked for such: the first."""
LOOKED_AT = 1000
"""Number of attacked images whose near-duplicates are looked for: the first."""


def at_chance(
    accuracy: Interval | None, labels: Tensor, images: str = "test images", about: str = "the defense"
) -> list[str]:
    """Flag a network that is not shown to be better than always answering the largest class.

    That class has at least its part of the images, one divided by the number of classes, so guessing is no better.
    Nothing is said of so few images that even a network with all of them correct would be flagged.

    Args:
        accuracy: on test images, with its 95 % interval; None: it is not known.
        labels: classes of these images, (N,); of a single class nothing can be told.
        images: what these images are called.
        about: what figures of such a network say nothing about.

    Returns:
        One sentence for each flag; none where all is well.

    >>> labels = torch.tensor([0, 1, 2, 3] * 10)
    >>> at_chance(Interval(0.9, 0.77, 0.96), labels), len(at_chance(Interval(0.3, 0.18, 0.45), labels))
    ([], 1)
    """
    count = len(labels)
    shares = labels.bincount() / count
    chance = float(shares.max())
    if accuracy is None or accuracy.lo > chance or int((shares > 0).sum()) < 2:
        return []
    if binomial_ci(count, count).lo <= chance:  # no answers to so few images could show that it has learned
        return []
    return [
        f"the network is not shown to be better than chance on its {count} {images} (accuracy {accuracy:.1%}, "
        f"chance {chance:.1%}), so its figures say nothing about {about}; train it until it tells the classes "
        "apart, or test it on more images"
    ]


def no_better_than_the_mean(mse: Tensor, baseline: Tensor) -> list[str]:
    """Flag an attack that is not shown to be better than answering the mean training image.

    Args:
        mse: errors of the attack, (N,).
        baseline: errors of the mean image, (N,).

    Returns:
        One sentence for each flag; none where all is well.
    """
    if paired_difference(mse, baseline).hi < 0:
        return []
    return ["the attack does no better than the mean training image: it may have failed, not the wire been private"]


def no_better_than_linear(mse: Tensor, floor: Tensor) -> list[str]:
    """Flag an attack that is not better than the linear attack on the same wires.

    Args:
        mse: errors of the attack, (N,).
        floor: errors of the linear attack, (N,).

    Returns:
        One sentence for each flag; none where all is well.
    """
    ours, theirs = float(mse.mean()), float(floor.mean())
    if ours < theirs:
        return []
    return [
        f"the attack does not beat the linear one ({ours:.4g} against {theirs:.4g} on the same wires), which takes "
        "seconds: it has not learned what there is; give it more epochs, steps or images, or another network"
    ]


def still_falling(curve: Sequence[float]) -> list[str]:
    """Flag a training whose held-out error still fell by more than `FALL` in its last tenth.

    Args:
        curve: error after each epoch.

    >>> still_falling([1.0] * 20), len(still_falling([0.9**k for k in range(20)]))
    ([], 1)
    """
    tenth = max(1, len(curve) // 10)
    if len(curve) < LEAST_CURVE or min(curve) >= (1 - FALL) * min(curve[:-tenth]):
        return []
    return [
        f"the attack's error on held-out images still fell by {1 - min(curve) / min(curve[:-tenth]):.0%} in the last "
        "tenth of its training: it was stopped early; train it longer"
    ]


@torch.no_grad()
def of_model(model: SplitModel, images: Split) -> list[str]:
    """Flag a wire whose noise is claimed but never drawn, or the same for all, or whose images depend on each other.

    Args:
        model: with its defense.
        images: 16 of them are sent.

    Returns:
        One sentence for each flag; none where all is well.
    """
    x = to_float(images.images[:SAMPLE]).to(model.mean.device)
    first, second = _twice(model, x)
    found = _other_noise(model, x)
    claimed = getattr(model.defense, "noise_variance", lambda: 0.0)()
    if not found and claimed > 0 and torch.equal(first, second):
        found.append(
            f"the defense claims noise of variance {claimed:.3g}, but two looks at one image are equal: the wire "
            "that was attacked is not the one that is served; draw the noise from the generator in on_wire"
        )
    for name in constant_parts(model, x) if not found else ():
        found.append(
            f"what {name} adds to the wire is the same for every image and at every look, and {name} does not tell so: "
            "whoever knows it subtracts it, and it hides nothing; draw noise from the generator in on_wire, or tell "
            "the offset in `law`"
        )
    if depends_on_company(model, x):
        found.append(
            "an image's wire depends on the images beside it, so what was attacked in batches is not what is "
            "served one by one; make the defense act on each image alone"
        )
    return found


def _other_noise(model: SplitModel, x: Tensor) -> list[str]:
    """Flag a defense whose noise, over many looks, has another variance than it tells.

    What a codec rounds is not drawn: it is looked at before the codec.
    """
    z, defense, draw = model.features(x), model.defense, model.protect
    if isinstance(defense, Stack) and any(isinstance(part, Codec) for part in defense):
        defense = Stack(*(part for part in defense if not isinstance(part, Codec)))
        draw = defense.on_wire
    seeds = [torch.Generator(x.device).manual_seed(seed) for seed in range(2 * PAIRS)]
    looks = torch.stack([draw(z, seed).double() for seed in seeds])
    law = law_of(defense, looks.flatten(0, 1).float())
    told = law.variance
    if told is None:
        return []
    seen = torch.ones_like(looks, dtype=torch.bool) if law.visible is None else law.visible.view_as(looks)
    first, second, both = looks[::2], looks[1::2], seen[::2] & seen[1::2]
    # The looks are laid one after the other in the law, which may tell a variance of each entry of each of them.
    variance = torch.as_tensor(told, dtype=torch.float64, device=x.device).expand_as(looks.flatten(0, 1))
    variance = variance.view_as(looks)[::2]
    if bool((first != second)[both & (variance <= 0)].any()):
        return [
            "the defense tells that some or all of the wire carries no noise, but two looks at one image differ there: "
            "the wire that was attacked is not the one that is described; draw the noise as `law` tells it"
        ]
    ratios = ((first - second).square() / (2 * variance))[both & (variance > 0)]
    if len(ratios) < 2:
        return []
    drawn, chance = float(ratios.mean()), 3 * float(ratios.std()) / len(ratios) ** 0.5
    if abs(drawn - 1) <= NOISE_MARGIN + chance:
        return []
    return [
        f"the defense tells of noise of variance {float(variance.mean()):.3g}, but what it draws has {drawn:.3g} times "
        "that: the wire that was attacked is not the one that is described; draw the noise as `law` tells it"
    ]


@torch.no_grad()
def of_law(model: SplitModel, victim: Victim, images: Split) -> list[str]:
    """Flag a defense that adds one of a known collection of offsets, where attacks cannot tell them but others might.

    Args:
        model: with its defense.
        victim: the attacker's view, by which wires of several looks become one.
        images: one of them is sent.

    Returns:
        One sentence for each flag; none where all is well.
    """
    x = to_float(images.images[:1]).to(model.mean.device)
    wire, _ = _twice(model, x)
    if (law := victim.law(wire)).forgotten:
        advice = _so_that_they_can(model, victim, wire)
    elif untold(model, x, law):
        advice = "attack a network without the part that adds it, as that part hides less than the attacks here show"
    else:
        return []
    return [
        "the attacks make no use of all that can be told of the known collection from which an offset was added, or of "
        f"what had been hidden before it: the wire looks more private than it is; {advice}"
    ]


def _so_that_they_can(model: SplitModel, victim: Victim, wire: Tensor) -> str:
    """Return what to do so that attacks can tell which offset was added, as far as this stack allows it."""
    one = "attack one wire of each image"
    if not law_of(model.defense, wire).forgotten:
        return one
    if any(sends_fewer(part) for part in acting(model.defense)):
        order = "train a network without shredder and harden that, as water-filled noise comes behind everything else"
    else:
        order = "put shredder behind the other defenses, and attack without a codec"
    return f"{order}, and {one}" if victim.observed > 1 else order


def of_queries(model: SplitModel, victim: Victim, needs: frozenset[Access], images: Split) -> list[str]:
    """Flag an attack on a noisy defense that saw each of its images less than twice, so without fresh noise.

    Args:
        model: with its defense.
        victim: the attacker's view, which counts its queries.
        needs: access that the attack uses.
        images: of the attacker.

    Returns:
        One sentence for each flag; none where all is well.
    """
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


def diverged(labels: Iterable[str]) -> list[str]:
    """Return a flag for each attack whose training diverged, so that nothing is known of it.

    >>> diverged(["residual"])
    ['the training of residual diverged, so the strongest attack may be missing']
    """
    return [f"the training of {label} diverged, so the strongest attack may be missing" for label in labels]


def cut_short(cut: Mapping[str, tuple[int, int]]) -> list[str]:
    """Flag optimizations that the budget ended.

    Args:
        cut: name of the loop -> (steps taken, steps wanted).

    >>> cut_short({"decoder": (30, 500)})
    ['the budget ended decoder after 30 of 500 steps: a real attacker has more; quote the budget with the figure']
    """
    parts = ", ".join(f"{name} after {done} of {wanted} steps" for name, (done, wanted) in cut.items())
    return [f"the budget ended {parts}: a real attacker has more; quote the budget with the figure"] if cut else []


def black_box_wins(
    values: dict[str, Tensor], needs: dict[str, frozenset[Access]], distances: dict[str, Tensor] | None = None
) -> list[str]:
    """Flag white-box attacks that are all worse than the best attack without the weights, beyond the 95 % interval.

    There is no flag where the answers of the best white-box attack are nearer on the wire: it has found what it
    searched for, and the mean of all likely images has less squared error than the likeliest one, as it must under much
    noise.

    Args:
        values: MSE of each attack per image, (N,).
        needs: access of each attack.
        distances: of each attack, see `interception.wire_distance`.

    Returns:
        One sentence for each flag; none where all is well.
    """
    white = {name: float(v.mean()) for name, v in values.items() if Access.WEIGHTS in needs[name]}
    black = {name: float(v.mean()) for name, v in values.items() if Access.WEIGHTS not in needs[name]}
    if not white or not black:
        return []
    best_white, best_black = min(white, key=lambda n: white[n]), min(black, key=lambda n: black[n])
    if paired_difference(values[best_white], values[best_black]).lo <= 0:
        return []
    if distances and float(distances[best_white].mean()) <= float(distances[best_black].mean()):
        return []
    return [
        f"{best_black}, which sees the wire only, beats {best_white}, which has the weights "
        f"({black[best_black]:.4g} against {white[best_white]:.4g}): gradients may be masked or steps too few; the "
        "white-box figure is no measure of this defense"
    ]


def near_duplicates(train: Split, test: Split) -> list[str]:
    """Flag attacked images of which the attacker has a near copy: as it is, mirrored, or shifted by some pixels.

    Exact copies are refused by `Protocol`.

    Args:
        train: images of the attacker.
        test: images under attack.

    Returns:
        One sentence for each flag; none where all is well.
    """
    images = test.images[:LOOKED_AT]
    found = alike(images, train.images) | alike(images.flip(3), train.images)
    few = images[:SHIFTED]
    found[: len(few)] |= shifted_alike(few, train.images) | shifted_alike(few.flip(3), train.images)
    if not int(found.sum()):
        return []
    return [
        f"{int(found.sum())} of {len(images)} attacked images have a near-duplicate among the attacker's (2 of 255 "
        f"grey levels; also mirrored, and the first {len(few)} shifted by up to {SHIFT} pixels): they may be "
        "remembered, not reconstructed; remove them"
    ]


def shifted_alike(images: Tensor, others: Tensor) -> Tensor:
    """Return which of ``images`` are `alike` one of ``others`` after a shift of up to `SHIFT` pixels: bool (N,).

    Args:
        images: uint8 (N, C, S, S).
        others: uint8 (M, C, S, S).
    """
    found = torch.zeros(len(images), dtype=torch.bool)
    height, width = (side - 2 * SHIFT for side in images.shape[2:])
    if min(height, width) < 2 * SHIFT:
        return found
    middle = others[:, :, SHIFT : SHIFT + height, SHIFT : SHIFT + width]
    coarse = _coarse(middle)
    for down, right in itertools.product(range(2 * SHIFT + 1), repeat=2):
        found |= alike(images[:, :, down : down + height, right : right + width], middle, coarse)
    return found


def alike(images: Tensor, others: Tensor, coarse: Tensor | None = None) -> Tensor:
    """Return which of ``images`` are within `ALIKE` of one of ``others``, up to 2 of 255: bool (N,).

    Means over blocks are nearer to each other than the images are, so the coarse search misses none.

    Args:
        images: uint8 (N, C, S, S).
        others: uint8 (M, C, S, S).
        coarse: `_coarse` of ``others``, where it is known.

    >>> images = torch.tensor([10, 100]).view(2, 1, 1, 1).expand(2, 3, 8, 8).to(torch.uint8)
    >>> alike(images, images[:1] + 1)
    tensor([ True, False])
    """
    found = torch.zeros(len(images), dtype=torch.bool)
    ours, theirs = _coarse(images), _coarse(others) if coarse is None else coarse
    limit = ALIKE / 255 * ours.shape[1] ** 0.5
    for part, means in zip(others.split(4096), theirs.split(4096), strict=True):
        near = torch.cdist(ours, means, compute_mode="donot_use_mm_for_euclid_dist") <= limit * 1.01
        for i, j in near.nonzero().tolist():
            if not found[i]:
                difference = images[i].cpu().long() - part[j].cpu().long()  # whole numbers: the limit itself counts
                found[i] = difference.square().sum() <= ALIKE**2 * difference.numel()
    return found


def _coarse(images: Tensor) -> Tensor:
    """Return means over equal blocks, (N, C · blocks): some 8 × 8 of them, or the pixels where the sides are prime."""
    sides = [next((n for n in range(COARSE, 3, -1) if side % n == 0), side) for side in images.shape[2:]]
    return torch.cat(
        [adaptive_avg_pool2d(to_float(part), (sides[0], sides[1])).flatten(1) for part in images.cpu().split(4096)]
    )


def _twice(model: SplitModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return two looks at the same images from one generator, as a victim's queries follow each other."""
    rng = torch.Generator(x.device).manual_seed(0)
    return model.encode(x, rng).float(), model.encode(x, rng).float()
