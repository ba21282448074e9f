"""Real steps of trainings and attacks, timed and weighed on random images."""

from __future__ import annotations

import io
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import config, recipe
from ..attacks import gan
from ..attacks._held_out import HELD_OUT
from ..attacks._victim import CACHE_BYTES
from ..attacks.base import Observations, Victim
from ..attacks.decoder import DecoderAttack
from ..defenses.base import Features
from ..training.fabric import Fabric
from ..training.feature_buffer import capacity
from ..training.trainer import Trainer, correct
from .shapes import Size, stand_in

TIMED = ("decoder", "gan")
"""Attacks whose steps are timed."""
ROUNDS = 2
"""Steps that are timed, after one that warms up."""
PART = 64
"""Images of a batch, at most, that a processor is timed on: its seconds and bytes grow with their number."""
FITTED = 1000
"""Features, at most, on which a refit is timed; its cost grows with their number."""
SCRATCH = 2
"""Bytes at the peak of a processor's step for each that autograd saves: gradients and scratch memory take the rest.
Peaks measured for VGG11 and the published decoder were 1.6 and 2.0 times what was saved."""
FORWARD = 1 / 3
"""A pass forward as a share of a step, which also goes back for the input and for the weights."""


@dataclass(frozen=True)
class AttackCost:
    """Seconds of a decoder's step, and of a GAN's critic; bytes at the peak of the decoder's."""

    step: float
    critic: float
    memory: int


@dataclass(frozen=True)
class Cost:
    """What a shape of training costs.

    Attributes:
        step: seconds of a step. look: seconds of scoring an image. refit: seconds of a refit for each image.
        disk: bytes of the weights and the checkpoint.
        memory: bytes of a step: weights, gradients, optimizer and what is kept for going back.
        wire: bytes of an image's feature. features: whether the defenses want those of all images.
        attacks: label -> what an attack costs.
    """

    step: float
    look: float
    refit: float
    disk: int
    memory: int
    wire: int
    features: bool
    attacks: dict[str, AttackCost] = field(default_factory=dict)

    def kept(self, images: int) -> int:
        """Bytes of an epoch's features, and of what is made of them."""
        return 2 * min(images, capacity(self.wire // 4)) * self.wire if self.features else 0

    def observed(self, images: int) -> int:
        """Bytes of the features that an attacker keeps of its own images."""
        return images * self.wire if images * self.wire <= CACHE_BYTES else 0


class Attackers:
    """What attacks cost: each network on each wire is measured once, whichever attacks use it."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[float, int]] = {}
        self._critics: dict[str, float] = {}

    def cost(self, spec: config.Spec, trainer: Trainer) -> AttackCost:
        """Of a decoder or GAN attack on the wire of ``trainer``'s model."""
        attack = spec.make("attacks")
        decoder: DecoderAttack = attack.warm if spec.name == "gan" else attack
        victim = Victim(trainer.model, trainer.parts.grants)
        bench = _Bench(decoder, victim.observe(trainer.parts.attacker_train), trainer.fabric.device)
        shape = list(trainer.model.wire_shape)
        key = f"{decoder.network} {decoder.batch_size} {shape} {bench.side}"
        if key not in self._steps:
            self._steps[key] = bench.decoder()
        step, memory = self._steps[key]
        if spec.name != "gan":
            return AttackCost(step, 0.0, memory)
        key += f" {attack.kind} {attack.width} {attack.batch_size}"
        if key not in self._critics:
            self._critics[key] = bench.critic(attack) * attack.batch_size / decoder.batch_size
        return AttackCost(step, self._critics[key], memory)


def measure(settings: config.TrainConfig, size: Size, attacks: dict[str, config.Spec], attackers: Attackers) -> Cost:
    """Time steps of the training loop itself, and of the attacks that have any."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(kind)
    whole = max(2, settings.batch_size // settings.devices)
    batch = _part(whole, device)
    precision: Any = recipe.precision(settings.precision, device)
    # Twice the batch: under `auxiliary` half of the images are the attacker's. And some for validation.
    images = stand_in(size, 2 * batch + max(PART, batch // 2))
    with torch.random.fork_rng():  # layers draw weights and dropout from torch's global generators
        trainer = Trainer(settings, images, Path("unused"), Fabric(accelerator=kind, devices=1, precision=precision))
        refit = _refit(trainer, size)
        index, rng = torch.arange(batch, device=device), torch.Generator(device).manual_seed(settings.seed)
        trainer.forward.train()
        step, kept = _measured(lambda: trainer._step(index, rng, 0.5, None), trainer.step, device)
        seen = trainer.train.subset(index)
        look, _ = timed(lambda: correct(trainer.model.eval(), seen, rng), device, rounds=1)
        disk, held = _saved(trainer), _held(trainer)
        costs = {label: attackers.cost(spec, trainer) for label, spec in attacks.items() if spec.name in TIMED}
    scale = whole / batch
    memory = held + round(kept * scale)
    return Cost(step * scale, look / batch, refit, disk, memory, _wire(trainer), trainer.stack.wants_features, costs)


def attack_seconds(spec: config.Spec, cost: AttackCost, attacker: int, attacked: int) -> float:
    """Seconds of an attack that learns from ``attacker`` images and answers for ``attacked``; at most, where it has no
    fixed length.

    >>> decoder = config.Spec.model_validate("decoder:epochs=10,batch_size=50").resolve("attacks")
    >>> round(attack_seconds(decoder, AttackCost(step=1.0, critic=0.0, memory=0), attacker=1000, attacked=0))
    187
    """
    settings = spec.parameters
    batch, epochs, ends = settings["batch_size"], settings["epochs"], settings["steps"]
    held = max(1, round(HELD_OUT * attacker))
    timed = settings.get("warm_batch_size") or batch  # the batch of the decoder, which `cost.step` is of
    steps, answer = math.ceil((attacker - held) / timed), FORWARD * cost.step / timed
    epoch = steps * cost.step + held * answer
    if spec.name == "gan":
        refine = cost.step * batch / timed / settings["critic_steps"]
        rounds = math.ceil((attacker - held) / batch)
        refined = rounds * (cost.critic + refine) + held * answer
        warm = min(epochs, 50) if settings["warm_epochs"] is None else settings["warm_epochs"]
        warm = settings["warm_steps"] / steps if settings["warm_steps"] else warm
        return warm * epoch + (math.ceil(ends / rounds) if ends else epochs) * refined + attacked * answer
    return (ends / steps if ends else epochs) * epoch + attacked * answer


def timed(work: Callable[[], Any], device: torch.device, rounds: int = ROUNDS) -> tuple[float, Any]:
    """Median seconds of ``work``, and what it returned last."""
    taken, result = [], None
    for _ in range(rounds):
        _wait(device)
        start = time.perf_counter()
        result = work()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), result


@contextmanager
def weighed(module: nn.Module, device: torch.device) -> Iterator[Callable[[], int]]:
    """A function that tells, after the block, how many bytes it took at its peak beside ``module``'s weights.

    On a GPU it is the measured peak of the allocator; on a processor the tensors that autograd saved, each storage
    once, times SCRATCH.
    """
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield lambda: SCRATCH * sum(saved.values())


def _measured(work: Callable[[], Any], module: nn.Module, device: torch.device) -> tuple[float, int]:
    """Seconds of a step, and the bytes that it keeps; the step that is weighed warms up the timed ones."""
    with weighed(module, device) as kept:
        work()
    return timed(work, device)[0], kept()


def _part(batch: int, device: torch.device) -> int:
    return batch if device.type == "cuda" else min(batch, PART)


def _wire(trainer: Trainer) -> int:
    return 4 * math.prod(trainer.model.wire_shape)


def _refit(trainer: Trainer, size: Size) -> float:
    """Seconds of a refit for each image; 0 where no defense wants features."""
    if not trainer.stack.wants_features:
        return 0.0
    device = trainer.fabric.device
    rng = torch.Generator(device).manual_seed(0)
    count = min(size.train, max(FITTED, 10 * size.classes))
    z = torch.rand(count, _wire(trainer) // 4, generator=rng, device=device)
    y = torch.arange(count, device=device) % size.classes
    features = Features(z, y, size.classes, rng, lambda: (z, y))
    seconds, _ = timed(lambda: trainer.stack.refit(0, features), device, rounds=1)
    return seconds / count


def _saved(trainer: Trainer) -> int:
    """Bytes of model.safetensors and the checkpoint."""
    state, buffer = trainer.model.state_dict(), io.BytesIO()
    weights = sum(value.numel() * value.element_size() for value in state.values() if isinstance(value, Tensor))
    torch.save({"model": state, "optimizer": trainer.optimizer.state_dict()}, buffer)
    return weights + buffer.tell()


def _held(trainer: Trainer) -> int:
    """Bytes of weights, gradients and the optimizer's momenta."""
    return 3 * sum(p.numel() * p.element_size() for p in trainer.model.parameters())


class _Bench:
    """A decoder attack on its workbench: built, and given images to step on."""

    def __init__(self, attack: DecoderAttack, seen: Observations, device: torch.device):
        self.attack, self.seen, self.device = attack, seen, device
        part = _part(attack.batch_size, device)
        self.index, self.scale = torch.arange(part, device=device) % len(seen), attack.batch_size / part
        self.rng = torch.Generator(device).manual_seed(0)
        self.side = seen.images(self.index[:1]).shape[-1]

    def decoder(self) -> tuple[float, int]:
        """Seconds of a step, and bytes at its peak."""
        network, optimizer = self._build()
        work = lambda: self.attack.step(self.seen, self.index, optimizer, self.rng)  # noqa: E731
        step, kept = _measured(work, network, self.device)
        own = sum(p.numel() * p.element_size() for p in network.parameters())
        return step * self.scale, round(kept * self.scale) + 4 * own  # weights, gradients and Adam's two momenta

    def critic(self, attack: gan.GanAttack) -> float:
        """Seconds of a step of the critic of ``attack``."""
        _, optimizer = self._build()
        attack.build(self.side, self.rng)
        optimizers = (optimizer, torch.optim.Adam(attack.critic.parameters(), attack.rates[1], gan.BETAS))
        work = lambda: attack._step(self.seen, self.index, optimizers, self.rng, False)  # noqa: E731
        return timed(work, self.device)[0] * self.scale

    def _build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        self.attack._build(self.seen, self.rng)
        return self.attack.decoder, torch.optim.Adam(self.attack.decoder.parameters(), self.attack.lr)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
