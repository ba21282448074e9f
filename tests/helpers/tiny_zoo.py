"""Imported by a process, it builds tiny networks there: what the fixture `small` does in the process of the tests."""

from networks import tiny
from splitveil import runs
from splitveil.training import trainer

__all__ = ["trainer"]
runs.zoo.build = tiny
