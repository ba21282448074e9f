"""Halves that go into training as the network they were cut from does, which may have a ``train`` of its own."""

from __future__ import annotations

from torch import fx, nn

STILL = "still"
"""Entry of a half's ``meta``: names of the modules that stay in evaluation mode when it goes into training."""


class Half(fx.GraphModule):
    """A half of a network.

    >>> graph = fx.symbolic_trace(nn.Sequential(nn.BatchNorm2d(2)))
    >>> half = Half(dict(graph.named_modules()), graph.graph)
    >>> half.meta[STILL] = ["0"]
    >>> half.train().training, half.get_submodule("0").training
    (True, False)
    """

    def train(self, mode: bool = True) -> Half:
        """Set the mode of all modules, but for those that stay in evaluation mode.

        Args:
            mode: whether to train.
        """
        super().train(mode)
        for name in self.meta.get(STILL, ()):
            self.get_submodule(name).training = False
        return self


def keep_still(network: nn.Module, *halves: fx.GraphModule) -> None:
    """Note in each half which of its modules the network's own ``train`` keeps in evaluation mode.

    Frozen batch norms are the usual case: ``train`` calls ``super().train(mode)``, and then ``eval()`` on them.
    Afterwards the network and its halves are in evaluation mode.

    Args:
        network: network with the modules of the halves; a copy of the user's.
        halves: of class `Half`.
    """
    network.train()
    for half in halves:
        half.meta[STILL] = [name for name, module in half.named_modules() if name and not module.training]
    network.eval()
    for half in halves:
        half.eval()
