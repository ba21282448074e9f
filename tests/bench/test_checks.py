"""Errors of a cell name the cell."""

from __future__ import annotations

import pytest

from splitveil.bench.checks import named
from splitveil.errors import UserError


def test_bad_input_of_a_cell_names_the_cell_in_its_line():
    with pytest.raises(UserError, match=r"cell sigma=0\.1, seed=0: no"), named({"sigma": 0.1, "seed": 0}):
        raise UserError("no")


def test_a_fault_of_a_plugin_keeps_its_traceback_and_names_the_cell_below_it():
    with pytest.raises(AttributeError) as fault, named({"sigma": 0.1, "seed": 0}):
        raise AttributeError("'Victim' object has no attribute 'wires'")
    assert fault.value.__notes__ == ["This was in the cell sigma=0.1, seed=0."]
    with pytest.raises(KeyError) as fault, named({}):
        raise KeyError("a")
    assert not hasattr(fault.value, "__notes__")
