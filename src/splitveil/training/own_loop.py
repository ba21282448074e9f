"""The calls with which a training loop of your own does all that the defenses of a split model need."""

from __future__ import annotations

from numbers import Integral
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..defenses.base import Features, Step
from ..errors import UserError
from ..given import check_model
from ..model import SplitModel
from ..randomness import stream
from ..recipe import PUBLISHED, REFIT, STEP, learning_rate
from .feature_buffer import capacity
from .loop import check_epochs, stack_of

PATIENCE = 2
"""Number of passes over the images after which `OwnLoop.end_epoch` must have been called."""


class OwnLoop:
    """Three calls for a training loop of your own: `parameters`, `loss` and `end_epoch`.

    Args:
        model: model that is trained; its defenses are installed, as by `splitveil.split`.
        epochs: length of the training, which schedules follow.
        images: number of images of each epoch.
        seed: seed of the noise and of all else that the defenses draw.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(16, 2))
    >>> from splitveil.defenses.cem import CEM
    >>> from splitveil.defenses.gaussian import Gaussian
    >>> x, y = torch.rand(40, 3, 8, 8), torch.arange(40) % 2
    >>> model = SplitModel.cut(network, "1", x[:1], defense=[Gaussian(0.1), CEM(16)])
    >>> loop = OwnLoop(model, epochs=3, images=len(x))
    >>> optimizer = torch.optim.Adam(loop.parameters())
    >>> for epoch in range(3):
    ...     for index in torch.arange(len(x)).split(10):
    ...         optimizer.zero_grad()
    ...         loop.loss(x[index], y[index]).backward()
    ...         optimizer.step()
    ...     _ = loop.end_epoch()
    >>> sorted(loop.losses)
    ['cem', 'task']
    """

    def __init__(self, model: SplitModel, *, epochs: int, images: int, seed: int = 0):
        check_model(model, trainable=True)
        if not all(isinstance(count, Integral) for count in (epochs, images)) or epochs < 1 or images < 2:
            raise UserError(
                f"an own loop got {epochs} epochs of {images} images; expected whole numbers, at least 1 of 2 images"
            )
        stack = stack_of(model)
        check_epochs(stack, epochs)
        self.model, self.stack, self.epochs, self.images, self.seed = model, stack, epochs, images, seed
        self.losses: dict[str, float] = {}
        """Mean losses of the last epoch, by name: "task" and the defenses'."""
        self._epoch, self._classes = 0, 1
        self._begin()

    def _begin(self) -> None:
        self._rng = stream(self.model.mean.device, self.seed, STEP, self._epoch)
        self._seen, self._steps, self._kept = 0, 0, 0
        self._features: list[tuple[Tensor, Tensor]] = []
        self._totals: dict[str, Tensor] = {}

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters for an optimizer: all but those that the defenses train themselves."""
        own = {id(p) for p in self.stack.own_parameters()}
        return [p for p in self.model.parameters() if id(p) not in own and p.requires_grad]

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch: cross-entropy, and what the defenses add.

        Args:
            x: pixels (B, C, S, S) in [0, 1], on the device of the model.
            y: classes (B,).

        Raises:
            UserError: `end_epoch` was not called though all images have passed, or a defense cannot act.
        """
        if self._seen >= PATIENCE * self.images:
            raise UserError(
                f"{self._seen} images have passed since the last epoch, which has {self.images}; "
                "call end_epoch() after each epoch"
            )
        progress = min((self._epoch + min(self._seen / self.images, 1)) / self.epochs, 1 - 1e-9)
        self.stack.before_step(x, y, self.model)
        z = self.model.features(x)
        wire = self.model.protect(z, self._rng)
        logits = self.model.tail(wire)
        rate = learning_rate(PUBLISHED, progress)
        step = Step(x, y, z, wire, logits, self._rng, rate, progress, self.model, self._epoch)
        losses = {"task": cross_entropy(logits.float(), y), **self.stack.losses(step)}
        for name, value in losses.items():
            self._totals[name] = self._totals.get(name, torch.zeros_like(value)) + value.detach()
        self._seen, self._steps = self._seen + len(x), self._steps + 1
        if self.stack.wants_features and self._kept < capacity(z[0].numel()):
            self._features.append((z.detach().flatten(1).float(), y))
            self._kept += len(x)
        return torch.stack(list(losses.values())).sum()

    def end_epoch(self) -> bool:
        """Let the defenses learn from the features of the epoch; call it after the last step of each epoch.

        Returns:
            Whether parameters were replaced, as PATROL does: make the optimizer again from `parameters`.
        """
        if not self._steps:
            raise UserError("the epoch ended before its first step; call loss() for each batch before end_epoch()")
        self.losses = {name: float(value) / self._steps for name, value in self._totals.items()}
        if self._features:
            z, y = (torch.cat(part) for part in zip(*self._features, strict=True))
            self._classes = max(self._classes, 1 + int(y.max()))
            rng = stream(z.device, self.seed, REFIT, self._epoch)
            self.stack.refit(self._epoch, Features(z, y, self._classes, rng, _no_images))
        replaced = self.stack.restructure(self._epoch, self.model)
        self._epoch += 1
        self._begin()
        return replaced


def _no_images(*_: Any) -> NoReturn:
    raise UserError("an own loop has no images to go through again; use refit=epoch, or train with splitveil.fit")
