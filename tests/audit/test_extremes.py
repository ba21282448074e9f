"""Which images stand on a card, where attacks have kept some of theirs."""

from __future__ import annotations

import numpy as np
import torch

from splitveil.audit.attacked import Scored, extremes
from splitveil.pictures import Shown


def shown(*places: int) -> Shown:
    """Pictures whose pixels are the places of their images, and 100 more in what the attack made of them."""
    originals = np.array(places, np.uint8)[:, None, None, None].repeat(3, 1)
    return Shown(originals, originals + 100, np.array(places))


def test_pictures_are_those_of_the_images_that_every_attack_has_kept():
    errors = torch.tensor([9.0, 3.0, 8.0, 1.0, 2.0, 5.0, 7.0])
    values = {"a": {"mse": errors}, "b": {"mse": errors}}
    chosen = ["a", "b", "a", "a", "b", "a", "b"]
    found = Scored(made={}, values=values, name="a", chosen=chosen, given=None)  # type: ignore[arg-type]
    records, pictures = extremes(found, {"a": shown(0, 1, 2, 4, 5, 6), "b": shown(1, 2, 3, 4, 6)})
    assert {name: (one.image, one.mse) for name, one in records.items()} == {
        "most": (4, 2.0),
        "median": (6, 7.0),
        "least": (2, 8.0),
    }
    for name, (original, reconstruction) in pictures.items():
        assert (original == records[name].image).all()
        assert (reconstruction == records[name].image + 100).all()
