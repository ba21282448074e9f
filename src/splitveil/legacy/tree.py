"""The syntax tree of a shell script: words with their parts, commands, pipelines, loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError

SHOWN = 70
"""Most characters of a construct that a message repeats."""


@dataclass(frozen=True)
class Text:
    """Literal characters."""

    text: str
    quoted: bool


@dataclass(frozen=True)
class Parameter:
    """`$name`, `${name}`, `${name:-other}`; `other` is what follows the operator."""

    source: str
    name: str
    quoted: bool
    operator: str = ""
    other: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Arithmetic:
    """`$((...))`."""

    source: str
    expression: str
    quoted: bool


@dataclass(frozen=True)
class Substitution:
    """`$(...)`, backticks, `<(...)` and `>(...)`; the last two become the name of one file."""

    source: str
    body: Commands
    quoted: bool
    file: bool = False


@dataclass(frozen=True)
class Opaque:
    """A value that is not worked out: `${x%.py}`, `${list[0]}`, the array of `x=(1 2)`."""

    source: str
    name: str
    quoted: bool
    words: tuple[Word, ...] = ()

    @property
    def array(self) -> bool:
        """Return whether it is the array of `x=(1 2)`."""
        return self.source.startswith("(")


Part = Text | Parameter | Arithmetic | Substitution | Opaque


@dataclass(frozen=True)
class Word:
    """A word with its parts."""

    line: int
    source: str
    parts: tuple[Part, ...]

    @property
    def plain(self) -> str:
        """Return the word if nothing in it is quoted or expanded, else an empty string."""
        plain = all(isinstance(part, Text) and not part.quoted for part in self.parts)
        return "".join(part.text for part in self.parts if isinstance(part, Text)) if plain else ""


@dataclass(frozen=True)
class Assignment:
    """`NAME=VALUE` or `NAME+=VALUE`."""

    name: str
    value: Word
    append: bool = False


@dataclass(frozen=True)
class Redirection:
    """`>file` and its like."""

    operator: str
    target: Word


@dataclass(frozen=True)
class Simple:
    """`NAME=VALUE... command argument...`."""

    line: int
    source: str
    words: tuple[Word, ...]
    assignments: tuple[Assignment, ...] = ()
    redirections: tuple[Redirection, ...] = ()


@dataclass(frozen=True)
class DoubleBracket:
    """`[[ ... ]]` of one comparison: its words without the `!`, and the operator (empty for a word alone)."""

    line: int
    source: str
    words: tuple[Word, ...]
    sign: str
    negated: bool
    redirections: tuple[Redirection, ...] = ()


@dataclass(frozen=True)
class Group:
    """`{ ...; }`."""

    line: int
    body: Commands
    redirections: tuple[Redirection, ...] = ()


@dataclass(frozen=True)
class For:
    """`for NAME in words; do ...; done`."""

    line: int
    name: str
    words: tuple[Word, ...]
    body: Commands
    redirections: tuple[Redirection, ...] = ()


@dataclass(frozen=True)
class Branch:
    """`if` or `elif` with what it runs."""

    line: int
    source: str
    condition: Commands
    body: Commands


@dataclass(frozen=True)
class If:
    """`if ...; then ...; elif ...; else ...; fi`."""

    line: int
    branches: tuple[Branch, ...]
    otherwise: Commands
    redirections: tuple[Redirection, ...] = ()


Command = Simple | DoubleBracket | Group | For | If


@dataclass(frozen=True)
class Pipeline:
    """Commands joined by `|`, perhaps behind a `!`."""

    line: int
    source: str
    commands: tuple[Command, ...]
    negated: bool = False


@dataclass(frozen=True)
class AndOr:
    """Pipelines, each with the `&&` or `||` before it (the first with an empty string)."""

    pipelines: tuple[tuple[str, Pipeline], ...]
    background: bool = False


Commands = Sequence[AndOr]


def refusal(line: int, source: str, advice: str) -> UserError:
    """Return the error for shell that is not read: where, what, what to do."""
    return UserError(f"line {line}: '{shown(source)}' is not read; {advice}")


def shown(source: str) -> str:
    r"""Return a construct on one line, cut where it is long.

    >>> shown("python x.py  --a \\\n  1")
    'python x.py --a 1'
    """
    text = " ".join(source.replace("\\\n", " ").split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
