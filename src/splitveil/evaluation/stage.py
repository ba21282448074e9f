"""Everything that an attack needs before its first step, and the checks of what is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from .. import config
from ..attacks.base import Attack, Victim, check_memory
from ..data import ImageSet, Protocol, Split, protocol, to_float
from ..data.protocol import divide
from ..errors import UserError
from ..memory import placed
from ..model import SplitModel
from ..randomness import stream
from ..recipe import ATTACK
from ..runs import Run
from ..statistics.intervals import Interval
from ..training import pins
from .interception import Interception

ONCE = "drawn once per image"
"""Mark of attacks whose wires have one noise for all attacks: earlier versions drew it anew for each."""
SHARED = 10
"""Revision of the code that all attacks share: what they know of a defense, how they see wires, how decoders learn.
Raise it with each change after which they may answer otherwise; results of another one are not read back."""


@dataclass(frozen=True)
class ThreatModel:
    """The threat model of an attack: what the attacker has and sees, and how much of it is used.

    Attributes:
        protocol_name: who has which images, and what the attacker may access.
        attacker_size: number of the attacker's images that are used, class-balanced; None: all.
        attacked: number of images that are reconstructed, class-balanced; None: all.
        seed: seed of the attack's own randomness; which images it gets depends on the run's seed only.
        observed: wires of each image that the attacker sees and combines, as of a video or a request sent again.
    """

    protocol_name: str = "inference_time"
    attacker_size: int | None = None
    attacked: int | None = None
    seed: int = 0
    observed: int = 1


@dataclass(frozen=True)
class Stage:
    """Everything that an attack needs before its first step.

    ``seed`` is that of the attacked run, ``accuracy`` that of its test images, None where it is not known.
    """

    seed: int
    spec: config.Spec
    threat_model: ThreatModel
    attack: Attack
    given: Protocol
    model: SplitModel
    victim: Victim
    tap: Interception
    rng: torch.Generator
    accuracy: Interval | None = None

    def identity(self) -> dict[str, Any]:
        """Return what two attacks have in common only where they are the same attack."""
        return identity(self.spec, self.given, self.threat_model)


def identity(spec: config.Spec, given: Protocol, threat_model: ThreatModel) -> dict[str, Any]:
    """Return what makes two attacks the same: the attack, the images of both sides, and the threat model.

    ``images_digest`` is the SHA-256 of the attacked images: errors on equal ones may be compared image by image.

    Args:
        spec: name and settings of the attack.
        given: images of both sides.
        threat_model: seed and number of observed wires.
    """
    test = given.attacker_test.images
    return {
        "attack": spec.resolve("attacks").model_dump(),
        "protocol": given.name,
        "seed": threat_model.seed,
        "observed": threat_model.observed,
        "wire": ONCE,
        "revision": [SHARED, spec.make("attacks").revision],
        "images": {"attacker": len(given.attacker_train), "attacked": len(test)},
        "images_digest": given.attacker_test.digest(),
    }


def set_up(run: Run, spec: config.Spec, images: ImageSet, threat_model: ThreatModel) -> Stage:
    """Build the attack and what it sees; everything that can be wrong with the request is found here.

    Args:
        run: trained model in its folder.
        spec: name and settings of the attack.
        images: image set of the run.
        threat_model: what the attacker has and sees.

    Raises:
        UserError: as `stage_of`, or the run was trained on other images.
    """
    pins.check(run.summary, images, run.path)
    given = parts(run.settings, images, threat_model.protocol_name, threat_model.attacker_size, threat_model.attacked)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = run.model(images)
    if device.type != "cpu":  # found out before anything is put there
        fits(model, [spec], given, threat_model, device)
        model = placed(model, device)
    accuracy = run.summary["accuracy"]  # an imported checkpoint has none where its images were not at hand
    known = Interval.from_dict(accuracy) if accuracy else None
    return stage_of(model, spec, given, threat_model, run.settings.seed, known)


def stage_of(
    model: SplitModel,
    spec: config.Spec,
    given: Protocol,
    threat_model: ThreatModel,
    seed: int,
    accuracy: Interval | None = None,
) -> Stage:
    """Build the attack ``spec`` on ``model`` for an attacker who has what ``given`` says.

    Args:
        model: with its defense.
        spec: name and settings of the attack.
        given: images of both sides and granted access.
        threat_model: seed and number of observed wires.
        seed: of the attacked run: the wires under attack and the attack's randomness follow from it.
        accuracy: of the model on test images; None: not known, or no matter.

    Raises:
        UserError: unknown names, access that is not granted, a wire that the attack cannot take, too little memory.
    """
    spec = spec.resolve("attacks")
    attack: Attack = spec.make("attacks")
    victim = Victim(model, given.grants, threat_model.observed)
    victim.require(*attack.needs)
    attack.check(wire_shape(model, given.attacker_test), min(given.attacker_test.shape[1:]))
    check_memory(spec.name, attack, victim, given.attacker_train, len(given.attacker_test))
    rng = stream(victim.device, seed, ATTACK, threat_model.seed)
    tap = Interception(victim.of(attack), seed, given.name)
    return Stage(seed, spec, threat_model, attack, given, model, victim, tap, rng, accuracy)


def check(run: Run, specs: Collection[config.Spec], images: ImageSet, threat_model: ThreatModel) -> None:
    """Find out whether these attacks can be made on ``run``, before the first begins.

    Args:
        run: trained model in its folder.
        specs: names and settings of the attacks.
        images: image set of the run.
        threat_model: what the attacker has and sees.

    Raises:
        UserError: sizes beyond what there is.
        AccessError: the protocol does not grant access that an attack needs.
        WireError: an attack cannot take the wire.
    """
    given = parts(run.settings, images, threat_model.protocol_name, threat_model.attacker_size, threat_model.attacked)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fits(run.model(images), specs, given, threat_model, device)


def fits(
    model: SplitModel,
    specs: Iterable[config.Spec],
    given: Protocol,
    threat_model: ThreatModel,
    device: torch.device,
) -> None:
    """Find out whether these attacks on a model that is not yet on ``device`` can be made there.

    Args:
        model: with its defense, where there is room for it.
        specs: names and settings of the attacks.
        given: images of both sides.
        threat_model: number of observed wires.
        device: on which the attacks are made.

    Raises:
        UserError: too little memory on ``device``.
        AccessError: the protocol does not grant access that an attack needs.
        WireError: an attack cannot take the wire.
    """
    victim = Victim(model, given.grants, threat_model.observed)
    attacks = [(spec.name, spec.make("attacks")) for spec in specs]
    for _, attack in attacks:
        victim.require(*attack.needs)
    shape = wire_shape(model, given.attacker_test)
    for _, attack in attacks:
        attack.check(shape, min(given.attacker_test.shape[1:]))
    for name, attack in attacks:
        check_memory(name, attack, victim, given.attacker_train, len(given.attacker_test), device)


def check_wire(model: SplitModel, specs: Iterable[config.Spec], images: ImageSet) -> None:
    """Find out whether these attacks can take the wire of ``model``, which need not be trained yet.

    Args:
        model: with its defense.
        specs: names and settings of the attacks.
        images: of the size that is attacked.

    Raises:
        WireError: one cannot.
    """
    wire = wire_shape(model, images.test)
    for spec in specs:
        spec.make("attacks").check(wire, images.size)


@torch.no_grad()
def wire_shape(model: SplitModel, images: Split) -> tuple[int, ...]:
    """Return the shape of the wire of one of ``images``, without the batch.

    Args:
        model: with its defense.
        images: at least two images.
    """
    two = to_float(images.images[:2].to(model.mean.device))
    return tuple(model.eval().encode(two, torch.Generator(two.device).manual_seed(0)).shape[1:])


def parts(
    settings: config.TrainConfig, images: ImageSet, name: str, attacker_size: int | None, attacked: int | None
) -> Protocol:
    """Return who has which images when a run is attacked.

    Args:
        settings: of the run's training.
        images: image set of the run.
        name: protocol of the attack.
        attacker_size: number of the attacker's images that are used; None: all.
        attacked: number of images that are reconstructed; None: all.

    Raises:
        UserError: the run was trained under a protocol that excludes this one, or sizes beyond what there is.
    """
    trained = settings.protocol
    if name != trained and "auxiliary" in (name, trained):
        raise UserError(
            f"the run was trained under protocol {trained}, so its attacker cannot be {name}'s: "
            f"train it with --protocol {name}, or attack it with --protocol {trained}"
        )
    if attacked is not None and attacked < 2:
        raise UserError(f"attacked is {attacked}; expected at least 2 images: one has no confidence interval")
    given = protocol(name, images, seed=settings.seed, attacker_test_size=attacked)
    if attacker_size is None:
        return given
    if not 2 <= attacker_size <= len(given.attacker_train):
        most = len(given.attacker_train)
        raise UserError(f"attacker size is {attacker_size}; expected 2 to {most}, which protocol {name} has for it")
    fewer, _ = divide(given.attacker_train, attacker_size, torch.Generator().manual_seed(settings.seed))
    return Protocol(**{**vars(given), "attacker_train": fewer})
