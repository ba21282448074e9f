"""The shell's own commands that change variables, options or the flow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from .commands import ADVICE
from .syntax import assigned
from .tree import Simple, refusal
from .words import LOOSE, Words

SET = {"e": "errexit", "u": "nounset", "x": "xtrace", "v": "verbose"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Exit(Exception):
    """The end of the script, or of the subshell."""

    def __init__(self, status: int | None):
        self.status = status


class Jump(Exception):
    """A `break` or, with `again`, a `continue` of some loops."""

    def __init__(self, loops: int, again: bool):
        self.loops, self.again = loops, again


class Point(Protocol):
    """The current point of the walk through the script."""

    words: Words
    undecided: tuple[int, str] | None

    def certain(self) -> None:
        """Refuse a command that matters where it is not known whether it runs."""


def export(command: Simple, arguments: Sequence[str], at: Point) -> None:
    """Walk `export`."""
    found = [assigned(word) for word in command.words[1:]]
    for word, assignment in zip(command.words[1:], found, strict=True):
        if assignment is None and not _NAME.fullmatch(word.plain):
            raise refusal(command.line, command.source, "write export NAME=VALUE")
    values = [(assignment, at.words.assigned(assignment)) for assignment in found if assignment]
    for assignment, value in values:  # the values are worked out before any is set
        at.words.store(assignment, value, certain=not at.undecided)
    at.words.state.status = 0


def unset(command: Simple, arguments: Sequence[str], at: Point) -> None:
    """Walk `unset`."""
    if not all(_NAME.fullmatch(word) for word in arguments):
        raise refusal(command.line, command.source, "write unset NAME")
    for word in arguments:
        at.words.state.env.pop(word, None)
    at.words.state.status = 0


def options(command: Simple, arguments: Sequence[str], at: Point) -> None:
    """Walk `set`: accept only the options that are walked, or that do not matter."""
    left, known, on = list(arguments), {*SET.values(), "pipefail"}, at.words.state.options
    at.certain()
    while left:
        match = re.fullmatch(r"([-+])([euxv]*)(o?)", left.pop(0))
        names = [SET[letter] for letter in match[2]] if match else []
        if match and match[3]:
            names.append(left.pop(0) if left else "")
        if match is None or not names or not known.issuperset(names):
            raise refusal(command.line, command.source, "only set -e, -u, -x, -v and -o pipefail are; delete the rest")
        (on.update if match[1] == "-" else on.difference_update)(names)
    at.words.state.status = 0


def redirected(command: Simple, arguments: Sequence[str], at: Point) -> None:
    """Walk `exec` without a command, which redirects what the script writes."""
    if arguments:
        raise refusal(command.line, command.source, ADVICE["eval"])
    at.words.state.status = 0


def leave(command: Simple, arguments: Sequence[str], at: Point) -> None:
    """Walk `exit`."""
    if len(arguments) > 1 or not all(re.fullmatch(r"[0-9]{1,9}", word) for word in arguments):
        raise refusal(command.line, command.source, "write exit alone")
    at.certain()
    raise Exit(int(arguments[0]) % 256 if arguments else at.words.state.status)


def jump(command: Simple, arguments: Sequence[str], at: Point) -> None:
    """Walk `break` and `continue`."""
    name = command.words[0].plain
    if len(arguments) > 1 or not all(re.fullmatch(r"[1-9][0-9]{0,8}", word) for word in arguments):
        raise refusal(command.line, command.source, f"write {name} alone")
    if not at.words.state.loops:
        raise refusal(command.line, command.source, "it stands in no loop; delete the line")
    at.certain()
    raise Jump(int(arguments[0]) if arguments else 1, again=name == "continue")


def wait(command: Simple, arguments: Sequence[str], at: Point) -> None:
    """Walk `wait`."""
    if any(word.startswith(("-", LOOSE)) for word in arguments):
        raise refusal(command.line, command.source, "write wait alone")
    at.words.state.status = 0 if all(job == 0 for job in at.words.state.jobs) else None


OWN = {
    "export": export,
    "unset": unset,
    "set": options,
    "exec": redirected,
    "exit": leave,
    "break": jump,
    "continue": jump,
    "wait": wait,
}
