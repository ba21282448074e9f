"""The Python scripts that a published shell script would run, and their arguments, without executing anything.

The walk does what bash does, or refuses: a construct that is not read may change a variable or decide whether a
training runs at all. It assumes that trainings succeed, and steps before them such as `cd`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ..errors import UserError
from . import commands
from .flow import OWN, Exit, Jump
from .syntax import parse
from .tree import (
    AndOr,
    Assignment,
    Command,
    Commands,
    DoubleBracket,
    For,
    Group,
    If,
    Pipeline,
    Redirection,
    Simple,
    Substitution,
    Text,
    Word,
    refusal,
    shown,
)
from .words import LOOSE, SOLID, State, Words, known_part, readable, unknown

MAX_CALLS, MAX_TURNS, MAX_COMMANDS = 10_000, 30_000, 200_000
_BASH = re.compile(r"#!(?:.*[/\s])?(?:ba)?sh(?:\s|$)")


@dataclass(frozen=True)
class Call:
    """A call of one of the published Python scripts.

    Attributes:
        argv: arguments; a part that only a shell could tell stands between marks (`words.LOOSE`, `words.SOLID`).
    """

    line: int
    script: str
    argv: list[str]


@dataclass
class Walk:
    """The Python calls that a run of a script would make.

    Attributes:
        calls: calls of `main_MIA*.py` and `main_test_MIA*.py`, in order.
        others: (line, name) of the other Python scripts.
    """

    calls: list[Call] = field(default_factory=list)
    others: list[tuple[int, str]] = field(default_factory=list)


def calls(text: str) -> list[Call]:
    """Return all calls of `main_MIA*.py` and `main_test_MIA*.py` that a run of the script would make, in order.

    Args:
        text: a script.

    Raises:
        UserError: with the line, shell that is not read; too many turns or calls.

    >>> [call.argv for call in calls('for x in 1 2; do python main_MIA.py --lambd=$x; done')]
    [['--lambd=1'], ['--lambd=2']]
    """
    return walk(text).calls


def walk(text: str) -> Walk:
    """Return the calls as `calls` does, with the other Python scripts that would run."""
    first = text.partition("\n")[0]
    if first.startswith("#!") and not _BASH.match(first):
        raise refusal(1, first, "expected a script for bash")
    for mark, name in ((LOOSE, "NUL"), (SOLID, "SOH"), ("\2", "STX")):
        if mark in text:
            raise UserError(f"line {_line(text, mark)}: a {name} character is no text; delete it")
    if "\r" in text:
        raise UserError(
            f"line {_line(text, chr(13))}: ends in a carriage return, as on Windows, which bash takes for a part of "
            "the line; remove them: sed -i 's/\\r$//' SCRIPT"
        )
    reader = _Reader()
    with suppress(Exit):
        reader.all(parse(text))
    return reader.walk


def _line(text: str, char: str) -> int:
    return text.count("\n", 0, text.index(char)) + 1


class _Reader:
    def __init__(self):
        self.walk = Walk()
        self.turns = self.commands = 0
        self.exempt = 0  # in how many places around this one a failure does not end the script
        self.inside = 0  # in how many $(...)
        self.undecided: tuple[int, str] | None = None  # the test that decides whether this point is reached
        self.substituted: int | None = 0  # the status of the last $(...)
        self.enter(State())

    def enter(self, state: State) -> None:
        self.state, self.words = state, Words(state, self.substitute)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Walk a subshell: what it sets is gone afterwards, and `exit` ends it alone."""
        state, inner = self.state, self.state.copy()
        self.enter(inner)
        try:
            yield
        except Exit as end:
            inner.status = end.status
        finally:
            self.enter(state)
        state.status = inner.status

    @contextmanager
    def exempted(self, exempt: bool = True) -> Iterator[None]:
        self.exempt += exempt
        try:
            yield
        finally:
            self.exempt -= exempt

    def maybe(self, line: int, source: str, run: Callable[[], None]) -> None:
        """Walk what may run or not: refuse what matters in it, and forget the variables that it sets."""
        before = self.undecided
        self.undecided = before or (line, shown(source))
        run()
        self.undecided, self.state.status, self.state.stages = before, None, []

    def certain(self) -> None:
        """Refuse a command that matters where it is not known whether it runs."""
        if self.undecided:
            line, source = self.undecided
            raise UserError(
                f"line {line}: '{source}' cannot be decided without a shell; keep only the branch that counts"
            )

    def substitute(self, part: Substitution) -> None:
        before = self.state.status
        self.inside += 1
        with self.apart():
            self.state.options.discard("errexit")
            self.all(part.body)
        self.inside -= 1
        if part.file:
            self.state.status = before
        else:
            self.state.status = self.substituted = self.state.status if part.body else 0

    def all(self, body: Commands) -> None:
        for item in body:
            if item.background:
                with self.apart():
                    self.and_or(item)
                self.state.jobs.append(self.state.status)
                self.state.status = 0
                if not self.undecided:
                    self.state.env["!"] = f"{SOLID}$!{SOLID}"
            else:
                self.and_or(item)

    def and_or(self, item: AndOr) -> None:
        for i, (sign, pipeline) in enumerate(item.pipelines):
            status, final = self.state.status, i == len(item.pipelines) - 1
            with self.exempted(not final):
                if sign and status is None:
                    before = item.pipelines[i - 1][1]
                    self.maybe(before.line, f"{before.source} {sign}", lambda p=pipeline: self.pipeline(p))
                elif not sign or (status == 0) == (sign == "&&"):
                    self.pipeline(pipeline)

    def pipeline(self, pipeline: Pipeline) -> None:
        several = len(pipeline.commands) > 1
        with self.exempted(pipeline.negated):
            stages: list[int | None] = []
            for command in pipeline.commands:
                if several:
                    with self.apart():
                        self.command(command)
                else:
                    self.command(command)
                stages.append(self.state.status)
            for i, command in enumerate(pipeline.commands[1:]):
                if not (isinstance(command, Simple) and command.words and command.words[0].plain in ("tee", "cat")):
                    stages[: i + 1] = [None] * (i + 1)  # what writes to a command that does not read may fail
        status = stages[-1]
        self.state.stages = stages if several or isinstance(pipeline.commands[0], Simple) else []
        if several and "pipefail" in self.state.options:
            status = next((stage for stage in reversed(stages) if stage != 0), 0)
        if pipeline.negated:
            self.state.status = None if status is None else int(not status)
            return
        self.state.status = status
        if several or isinstance(pipeline.commands[0], Simple | DoubleBracket):
            self.may_end(pipeline, status)

    def may_end(self, pipeline: Pipeline, status: int | None) -> None:
        """Apply `set -e` to a status."""
        if "errexit" not in self.state.options or self.exempt or status == 0:
            return
        self.certain()
        if status is None:
            raise UserError(
                f"line {pipeline.line}: '{shown(pipeline.source)}' may fail, and 'set -e' would end the script there; "
                "delete the line or 'set -e'"
            )
        raise Exit(status)

    def command(self, command: Command) -> None:
        for redirection in command.redirections:
            self.redirect(redirection)
        if isinstance(command, Simple):
            self.simple(command)
        elif isinstance(command, Group):
            self.all(command.body)
        elif isinstance(command, For):
            self.loop(command)
        elif isinstance(command, If):
            self.choose(command)
        else:
            values = [self.words.value(word) for word in command.words]
            self.state.status = commands.double_bracket(command, values)

    def redirect(self, redirection: Redirection) -> None:
        target = redirection.target
        if redirection.operator[-1] == "&" and re.fullmatch(r"[0-9]+|-", target.plain):
            return
        if re.fullmatch(r"[0-9]+[<>]&|<&", redirection.operator):
            raise refusal(target.line, f"{redirection.operator}{target.source}", "write 2>&1, or redirect to a file")
        names = self.words.fields(target)
        if redirection.operator.endswith("<") and names != ["/dev/null"] and target.source[0] != "<":
            raise refusal(target.line, f"< {target.source}", "delete it: what is not there ends the command")
        if len(names) != 1 or not (target.source.startswith((">(", "<(")) or known_part(names[0])):
            source = f"{redirection.operator} {target.source}"
            raise refusal(target.line, source, "it may name no file or several; write its name, or put it in quotes")

    def loop(self, loop: For) -> None:
        values = [value for word in loop.words for value in self.words.fields(word)]
        if any(LOOSE in value for value in values):
            source = " ".join(word.source for word in loop.words)
            raise UserError(f'line {loop.line}: the list {source} is not known without a shell; write it as "a b c"')
        if not values:
            self.state.status = 0
        self.state.loops += 1
        for value in values:
            self.turns += 1
            if self.turns > MAX_TURNS:
                raise UserError(f"line {loop.line}: the loops turn more than {MAX_TURNS} times; shorten the lists")
            value = value.replace(SOLID, LOOSE)  # it is one word here, and may be several where it is used
            word = Word(loop.line, loop.name, (Text(value, quoted=True),))
            self.words.assign([Assignment(loop.name, word)], certain=not self.undecided)
            try:
                self.all(loop.body)
            except Jump as jump:
                self.state.status = 0
                if jump.loops > 1 and self.state.loops > 1:
                    self.state.loops -= 1
                    raise Jump(jump.loops - 1, jump.again) from None
                if not jump.again:
                    break
        self.state.loops -= 1

    def choose(self, choice: If) -> None:
        for i, branch in enumerate(choice.branches):
            with self.exempted():
                self.all(branch.condition)
            if self.state.status is None:
                self.maybe(branch.line, branch.source, lambda rest=i: self.every(choice, rest))
                return
            if self.state.status == 0:
                self.all(branch.body)
                return
        if not choice.otherwise:
            self.state.status = 0
        self.all(choice.otherwise)

    def every(self, choice: If, first: int) -> None:
        """Walk all branches from the one whose test is undecided."""
        for i, branch in enumerate(choice.branches[first:]):
            if i:
                with self.exempted():
                    self.all(branch.condition)
            self.all(branch.body)
        self.all(choice.otherwise)

    def simple(self, command: Simple) -> None:
        self.commands += 1
        if self.commands > MAX_COMMANDS:
            raise UserError(f"line {command.line}: more than {MAX_COMMANDS} commands would run; shorten the lists")
        self.substituted = 0
        fields = [field for word in command.words for field in self.words.fields(word)]
        if not fields:
            self.words.assign(command.assignments, certain=not self.undecided)
            self.state.status = self.substituted
            return
        for assignment in command.assignments:
            self.words.assigned(assignment)
        name = fields[0]
        if name in OWN:
            if command.assignments or command.words[0].plain != name:
                raise refusal(command.line, command.source, f"write {name} alone")
            OWN[name](command, fields[1:], self)
        elif (python := commands.python(fields, command.line, command.source)) is not None:
            self.python(command, python)
        elif unknown(name):
            raise refusal(command.line, command.source, f"write the command that {readable(name)} stands for")
        else:
            self.state.status = commands.status(fields, command.line, command.source)

    def python(self, command: Simple, python: commands.Python) -> None:
        self.state.status = 0
        if python.argv is None:
            if python.script.endswith(".py"):
                self.walk.others.append((command.line, python.script))
            return
        self.certain()
        if self.inside:
            raise refusal(command.line, command.source, "write a call inside of $(...) as a line of its own")
        if len(self.walk.calls) >= MAX_CALLS:
            raise UserError(f"line {command.line}: the script makes more than {MAX_CALLS} calls; shorten its lists")
        self.walk.calls.append(Call(command.line, python.script, python.argv))
