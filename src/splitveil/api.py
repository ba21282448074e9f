"""Split a network, train it with defenses and attack it: on modules and tensors, without a folder.

>>> import torch
>>> from torch import nn
>>> network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(512, 2))
>>> x, y = torch.rand(60, 3, 16, 16), torch.arange(60) % 2
>>> model = split(network, at="1", example=x[:1], defenses=["gaussian:0.1", "cem:16"])
>>> history = fit(model, (x[:40], y[:40]), epochs=2, batch_size=10)
>>> result = attack(model, "linear", learn_from=(x[:40], y[:40]), invert=(x[40:], y[40:]))
>>> 0 < result.mse, len(result.images), len(history)
(True, 20, 2)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import config, progress_bars
from .attacks.base import Attack
from .bounds.base import Bound, Channel, Estimate
from .coded import as_sent
from .cutting.layout import Layout
from .data import Access, Protocol, Split, to_float
from .data.protocol import contained, divide
from .data.streamed import Streamed
from .defenses.base import Defense
from .errors import DivergedError, UserError, WireError
from .evaluation import reliability, suites
from .evaluation.evaluate import Outcome, made
from .evaluation.stage import Stage, ThreatModel, stage_of
from .given import (
    Data,
    check_images,
    check_model,
    example_of,
    images_of,
    network_of,
    outputs_of,
    recipe_of,
    training_images_of,
)
from .hardening.picture import Hardened
from .hardening.search import Hardening
from .memory import placed
from .model import SplitModel
from .nn import fastconv
from .nn.copies import copy_of
from .outcomes import Report, Result
from .randomness import stream
from .recipe import TEST, precision
from .runtime import Budget, Runtime
from .statistics.intervals import Interval, binomial_ci
from .training.loop import EVALUATION_BATCH, Training, correct, stack_of
from .training.streamed import StreamedTraining


def split(
    network: nn.Module,
    at: str,
    example: Tensor | np.ndarray,
    *,
    defenses: Defense | str | Sequence[Defense | str] = (),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: Layout | None = None,
) -> SplitModel:
    """Cut a network after a layer and put defenses on the wire between the halves.

    Args:
        network: takes images (B, C, H, W) and gives logits (B, classes).
        at: the last layer on the device, as ``network.named_modules()`` calls it.
        example: pixels (1, C, H, W), floats in [0, 1] or uint8, as a tensor or an array.
        defenses: in their order on the wire: text such as ``"cem:16"``, or objects, of your own too, which are copied.
        mean: mean with which the network's images are normalized, a number per channel; None: they are not.
        std: standard deviation with which they are normalized, a number per channel.
        layout: "channels_last" where the maps of that layer are so, and it cannot be found by trying.

    Raises:
        UserError: no such layer, a cut that more than one tensor crosses, or defenses that do not fit.
    """
    network, pixels = network_of(network), example_of(example)
    given = [defenses] if isinstance(defenses, str | Defense) else list(defenses or ())
    stack = [one if isinstance(one, Defense) else config.spec_of(one, "defenses").make("defenses") for one in given]
    return SplitModel.cut(network, at, pixels, mean=mean, std=std, defense=stack, layout=layout)


def fit(
    model: SplitModel, data: Data, *, validate: Data | None = None, progress: bool = True, **settings: Any
) -> list[dict[str, Any]]:
    """Train the model in place, with everything that its defenses do in a training, and leave it in evaluation mode.

    Args:
        model: model that `split` has made.
        data: images and labels that it learns from. A `DataLoader` is gone through in each epoch, with its batches,
            order, workers and transforms, and never held in memory.
        validate: images on which the epoch is chosen; without them the last one is kept.
        progress: show a bar where there is a terminal, elsewhere a line at most every 30 seconds.
        settings: of `Recipe`: ``recipe`` ("fast" unless it is given), ``epochs``, ``batch_size``, ``lr``, ``seed``, ...
            Weights and dropout layers of the network are left as they are unless ``unit_variance=True`` or
            ``network_dropout=False`` is given, and the optimizer is SGD unless it is ``optimizer="muon"``: that turns
            the weights of a trained network as far as any others.

    Returns:
        A record for each epoch: loss, losses by name, accuracy_val, leakage_nats, seconds, images_per_second.

    Raises:
        UserError: unknown settings or values out of their range; images that do not fit the model.
    """
    check_model(model, trainable=True)
    recipe = recipe_of(data, settings, chosen=validate is not None)
    train = training_images_of(data, "data", recipe.batch_size)
    chooses = None if validate is None else training_images_of(validate, "validate", EVALUATION_BATCH)
    classes = 1
    for part, name in ((train, "data"), (chooses, "validate")):
        if part is not None and len(part):
            first = part if isinstance(part, Split) else part.first
            check_images(model, first, name)
            outputs = outputs_of(model, first, name)
            classes = max(classes, 1 + int(part.labels.max()) if isinstance(part, Split) else outputs)
    stack_of(model)
    from .training.fabric import fabric_of
    from .training.one_machine import OneMachine

    fabric = fabric_of(recipe, plugins=[OneMachine()])
    # Called within torch.no_grad() or inference_mode() it trains all the same.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(),
        progress_bars.bars() if progress else nullcontext() as bar,
    ):
        kind: Any = StreamedTraining if isinstance(train, Streamed) else Training
        try:
            training = kind(model, train, chooses, recipe, classes, fabric)
            training.run(progress_bars.training(bar, "training", recipe.epochs) if bar else None)
        finally:
            fastconv.restore(model)  # whoever saves the network whole gets the layers that it was built of
    model.eval().trained_by = recipe.model_dump(mode="json")
    return training.state.records


def accuracy(model: SplitModel, data: Data, *, seed: int = 0) -> Interval:
    """Return the share of images whose class the model tells from a noisy wire, with its 95 % interval (Wilson).

    Args:
        model: with its defenses; it is left in evaluation mode.
        data: images and labels that it was not trained on.
        seed: of the noise.

    Raises:
        UserError: images that do not fit the model.
    """
    check_model(model)
    images = images_of(data, "data")
    check_images(model, images, "data")
    outputs_of(model, images, "data")
    with torch.inference_mode(False):
        hits = correct(model.eval(), images, stream(model.mean.device, seed, TEST))
    return binomial_ci(int(hits.sum()), len(hits))


def harden(
    model: SplitModel, data: Data, *, validate: Data | None = None, max_drop: float = 1.0, seed: int = 0
) -> Hardened:
    """Put noise on the wire of a trained model in the directions that the task needs least, within a loss of accuracy.

    Args:
        model: trained; it stays as it is. The hardened one has the same encoder and a tail that is trained anew.
        data: images and labels that the tail learns from, and from which the noise is computed: at least twice as
            many as the wire has values. Of a model that `fit` has trained they are augmented as they were there.
        validate: images on which accuracy is compared, best of those that the model has not learned from; None: a
            tenth of ``data``, which is left out of the rest. On images that it knows a model looks better than it is.
        max_drop: points of accuracy that may be lost on those images.
        seed: of all that is drawn.

    Returns:
        The hardened model, and what was tried.

    Raises:
        UserError: images that do not fit, a wire that is too wide, or no noise that costs so little.
    """
    check_model(model, trainable=True)
    if not isinstance(max_drop, int | float) or not 0 < max_drop <= 100:
        raise UserError(f"max_drop is {max_drop!r}; expected points of accuracy, a number above 0, at most 100")
    train = images_of(data, "data")
    check_images(model, train, "data")
    if validate is None:
        rng = torch.Generator().manual_seed(seed)
        chooses, train = divide(train, max(1, len(train) // 10), rng)
    else:
        chooses = images_of(validate, "validate")
        check_images(model, chooses, "validate")
    outputs_of(model, train, "data")
    outputs_of(model, chooses, "validate")
    known = model.trained_by
    augmentation = {"crop_padding": known.get("crop_padding") or 0, "flip": bool(known.get("flip"))}
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
        found, search = Hardening(
            model,
            train,
            chooses,
            max_drop,
            seed=seed,
            augmentation=augmentation | {"rotate_degrees": known.get("rotate", 0.0), "cutout": known.get("cutout", 0)},
            bf16=precision(known.get("precision", "auto"), model.mean.device) == "bf16-mixed",
        ).run()
    hits = round(search.before * len(chooses))
    told = reliability.at_chance(binomial_ci(hits, len(chooses)), chooses.labels, "validation images", "the noise")
    return Hardened(found, search, told)


def bound(model: SplitModel, bound: Bound | config.Spec | str, images: Data, *, seed: int = 0) -> list[Estimate]:
    """Bound or estimate what the wire gives away about images like the given ones.

    Args:
        model: trained, with its defenses.
        bound: an object such as ``Mixture(clusters=3)``, or text such as ``"mixture:3"``.
        images: images that the model was not trained on; densities are fitted on half of them, chosen on a tenth, and
            scored on the rest.
        seed: of the division of the images and of the noise.

    Returns:
        One estimate or several; each says whether it is a lower or an upper bound, of what, and how precise it is.

    Raises:
        UserError: the bound says nothing about this wire (then a `bounds.base.BoundError`), or the images do not fit.
    """
    check_model(model)
    split = images_of(images, "images")
    check_images(model, split, "images")
    rng = torch.Generator().manual_seed(seed)
    channel = Channel.of(model, split, rng)
    made: Bound = bound if isinstance(bound, Bound) else config.spec_of(bound, "bounds").make("bounds")
    return made.estimate(channel, torch.Generator(channel.device).manual_seed(seed))


def attack(
    model: SplitModel,
    attack: Attack | config.Spec | str,
    *,
    learn_from: Data,
    invert: Data,
    grants: frozenset[Access] = frozenset(Access),
    seed: int = 0,
    observed: int = 1,
    budget: Budget | None = None,
    progress: bool = True,
) -> Result:
    """Attack what crosses the wire with images of the attacker's own.

    The model stays as it is.

    Args:
        model: trained, with its defenses.
        attack: an object, of a class of your own too, or text such as ``"decoder:epochs=20"``.
        learn_from: the attacker's own images.
        invert: images that are reconstructed from their wires.
        grants: what the attacker may use: queries, the encoder's weights, labels, the cloud's logits.
        seed: of the wires under attack and of the attack.
        observed: number of wires of each image that the attacker sees.
        budget: limit on the steps or the time of the attack.
        progress: show a bar where there is a terminal, elsewhere a line at most every 30 seconds.

    Raises:
        UserError: an image that both sides have, or an attack that cannot take this wire.
        AccessError: the attack needs what is not granted.
    """
    if budget is not None and not isinstance(budget, Budget):
        raise UserError(f"budget is {budget!r}; expected a splitveil.runtime.Budget")
    given = protocol_of(model, learn_from, invert, grants)
    victim, spec = _victim(model), _spec(attack)
    told = _accuracy(victim, given.utility_test, seed)
    stage = stage_of(victim, spec, given, ThreatModel("own", seed=seed, observed=observed), seed, told)
    return Result(spec.name, _outcome(stage, spec.name, budget, progress, {}), victim.cpu())


def evaluate(
    model: SplitModel,
    suite: str | Attack | config.Spec | Iterable[Attack | config.Spec | str] = "quick-v4",
    *,
    learn_from: Data,
    invert: Data,
    grants: frozenset[Access] = frozenset(Access),
    seed: int = 0,
    observed: int = 1,
    codec: str | None = None,
    train: Data | None = None,
    progress: bool = True,
) -> Report:
    """Make several attacks on the same wires: those of a suite, or the ones that are given.

    Args:
        model: trained, with its defenses.
        suite: name of a suite, or attacks as for `attack`.
        learn_from: the attacker's own images.
        invert: images that are reconstructed from their wires.
        grants: what the attacker may use, as for `attack`.
        seed: of the wires under attack and of the attacks.
        observed: number of wires of each image that the attacker sees.
        codec: attack what a device sends by this codec, as of `coded.with_codec`; None: the wire before any codec.
        train: images on whose wires the grid of the codec is found, those of the model's training.
        progress: show a bar where there is a terminal, elsewhere a line at most every 30 seconds.

    Raises:
        UserError: an unknown suite, none of its attacks can be made, or a codec that does not fit.
    """
    model = as_sent(model, codec, train)
    if isinstance(suite, Attack | config.Spec):
        suite = [suite]
    name = suite if isinstance(suite, str) else "own attacks"
    chosen = suites.named(suite) if isinstance(suite, str) else suites.labels(tuple(_spec(one) for one in suite))
    if not chosen:
        raise UserError("suite holds no attacks; expected a name such as 'quick-v4', or attacks such as [Linear()]")
    given, victim = protocol_of(model, learn_from, invert, grants), _victim(model)
    fits, told = dict[str, Any](), _accuracy(victim, given.utility_test, seed)
    threat_model, outcomes, skipped, failed = ThreatModel("own", seed=seed, observed=observed), {}, {}, []
    for label, spec in chosen.items():
        if why := _left_out(spec.make("attacks"), given):
            skipped[label] = why
            continue
        try:
            stage = stage_of(victim, spec, given, threat_model, seed, told)
            outcomes[label] = _outcome(stage, label, None, progress, fits)
        except (WireError, DivergedError) as error:
            skipped[label] = str(error)
            failed += [label] * isinstance(error, DivergedError)
    if not outcomes:
        raise UserError("; ".join(f"{label}: {why}" for label, why in skipped.items()))
    values = {label: outcome.values for label, outcome in outcomes.items()}
    needs = {label: chosen[label].make("attacks").needs for label in outcomes}
    results = {label: Result(label, outcome, victim.cpu()) for label, outcome in outcomes.items()}
    doubts = suites.hasty(name) + suites.doubts(values, needs, given) + reliability.diverged(failed)
    return Report(name, results, skipped, doubts, victim)


def protocol_of(model: SplitModel, learn_from: Data, invert: Data, grants: frozenset[Access]) -> Protocol:
    """Return who has which images, where an attacker has some and others are under attack.

    Args:
        model: that is attacked.
        learn_from: the attacker's own images.
        invert: images under attack.
        grants: what the attacker may use.

    Raises:
        UserError: grants or images that do not fit, a single image under attack, or one that both sides have.
    """
    check_model(model)
    if not isinstance(grants, Set) or not all(isinstance(one, Access) for one in grants):
        raise UserError(f"grants is {grants!r}; expected a set such as {{Access.QUERY, Access.WEIGHTS}}")
    own, under = images_of(learn_from, "learn_from"), images_of(invert, "invert")
    if len(under) < 2:
        raise UserError(f"invert has {len(under)} image; expected at least 2, for an interval over them")
    check_images(model, own, "learn_from")
    check_images(model, under, "invert")
    if shared := int(contained(own.images, under.images).sum()):
        raise UserError(f"learn_from and invert share {shared} images; remove them from learn_from")
    return Protocol("own", own, own, under, own, under, frozenset(grants))


def _left_out(wanted: Attack, given: Protocol) -> str:
    """Return why an attack of several is not tried; "" where it is."""
    count = len(given.attacker_train)
    if missing := wanted.needs - given.grants:
        return f"it needs {', '.join(sorted(one.value for one in missing))}, which is not granted"
    return f"the attacker has {count} images; expected at least {wanted.fewest()}" if count < wanted.fewest() else ""


def _spec(attack: Attack | config.Spec | str) -> config.Spec:
    if isinstance(attack, Attack) and not config.is_registered(attack, "attacks"):
        return config.OwnSpec.of(attack)
    return config.spec_of(attack, "attacks")


def _victim(model: SplitModel) -> SplitModel:
    """Return a copy: what is attacked is frozen and in evaluation mode."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return placed(copy_of(model), device)


def _accuracy(victim: SplitModel, images: Split, seed: int) -> Interval | None:
    """Return the accuracy on ``images``; None of a network whose answers are no logits of their classes."""
    with torch.inference_mode(False), torch.no_grad():
        logits = victim.eval().tail(victim.features(to_float(images.images[:1]).to(victim.mean.device)))
        if not torch.is_tensor(logits) or logits.ndim != 2 or logits.shape[1] <= int(images.labels.max()):
            return None
        hits = correct(victim, images, stream(victim.mean.device, seed, TEST))
    return binomial_ci(int(hits.sum()), len(hits))


def _outcome(stage: Stage, label: str, budget: Budget | None, progress: bool, fits: dict[str, Any]) -> Outcome:
    with torch.inference_mode(False), torch.enable_grad(), progress_bars.bars() if progress else nullcontext() as bar:
        return made(stage, Runtime(progress_bars.attack(bar, label) if bar else None, budget, None, fits))
