"""SplitVeil: split inference that keeps the picture on the device, and the attacks and bounds that test it.

``import splitveil as sv`` loads nothing heavy: each name is imported when it is first used. Every defense,
attack and bound is there by the name of its class, without the word Attack or Bound: ``sv.Gaussian``, ``sv.Decoder``.

>>> import splitveil as sv
>>> sv.Gaussian(0.1), sv.Linear(looks=2)
(Gaussian(sigma=0.1), LinearAttack(looks=2))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import accuracy, attack, bound, evaluate, fit, harden, split
    from .audit.own import PrivacyCard, privacy_card
    from .audit.own_cuts import Cuts, compare_cuts
    from .coded import with_codec
    from .data import Access
    from .deploy.own import export
    from .errors import UserError
    from .model import SplitModel
    from .outcomes import Report, Result
    from .saved import Saved, load, save
    from .training.own_loop import OwnLoop

__version__ = "0.2.0"
__all__ = [
    "Access",
    "Cuts",
    "OwnLoop",
    "PrivacyCard",
    "Report",
    "Result",
    "Saved",
    "SplitModel",
    "UserError",
    "accuracy",
    "attack",
    "bound",
    "compare_cuts",
    "evaluate",
    "export",
    "fit",
    "harden",
    "load",
    "privacy_card",
    "save",
    "split",
    "with_codec",
]
_ROOMS = {
    "audit.own": ("PrivacyCard", "privacy_card"),
    "audit.own_cuts": ("Cuts", "compare_cuts"),
    "api": ("accuracy", "attack", "bound", "evaluate", "fit", "harden", "split"),
    "coded": ("with_codec",),
    "data": ("Access",),
    "deploy.own": ("export",),
    "errors": ("UserError",),
    "model": ("SplitModel",),
    "outcomes": ("Report", "Result"),
    "saved": ("Saved", "load", "save"),
    "training.own_loop": ("OwnLoop",),
}


def __getattr__(name: str) -> Any:
    """Import the object that ``name`` stands for (PEP 562)."""
    for room, names in _ROOMS.items():
        if name in names:
            found = getattr(import_module(f".{room}", __name__), name)
            break
    else:
        # Classes only: the import system asks for modules here, which must not load every plug-in.
        found = _plugins().get(name) if name[:1].isupper() else None
        if found is None:
            raise AttributeError(f"module 'splitveil' has no attribute '{name}'")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *_plugins(), "__version__"})


def _plugins() -> dict[str, type]:
    """Return the classes of all defenses, attacks and bounds by the names under which they are exported."""
    from .registry import Registry

    things = [Registry(kind).get(name) for kind in ("defenses", "attacks", "bounds") for name in Registry(kind).names()]
    return {
        thing.__name__.removesuffix("Attack").removesuffix("Bound"): thing
        for thing in things
        if isinstance(thing, type)
    }
