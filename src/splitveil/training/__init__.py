"""Training of split models: the loop, its state, and the trainer of a run folder (`fit`)."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import `fit` when it is first used: the modules of this folder need not load lightning-fabric."""
    if name != "fit":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .trainer import fit

    return fit
