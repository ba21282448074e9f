"""The expansion of the words of a shell command, as far as the script alone says it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import UserError
from ..ranges import whole
from .arithmetic import UNKNOWN, calculate
from .tree import Arithmetic, Assignment, Opaque, Parameter, Part, Substitution, Text, Word, refusal


def names(text: str) -> frozenset[str]:
    """Return the words of `text`."""
    return frozenset(text.split())


LOOSE, SOLID = "\0", "\1"
"""Stand around a part that only a shell could tell, as `\\0$x\\0`. A loose one may be nothing or several words where it
is not quoted; a solid one is a part of one word."""
_MARKED = re.compile("\0([^\0]*)\0|\1([^\1]*)\1")
MAX_VALUE = 100_000
_TOKENS = re.compile("(\0[^\0]*\0|\1[^\1]*\1|[ \t\n]+|[^ \t\n\0\1]+)")
_ONE_WORD = names("$ ! # ? RANDOM SRANDOM SECONDS BASHPID UID EUID PPID LINENO EPOCHSECONDS EPOCHREALTIME")
_DYNAMIC = _ONE_WORD | names(
    "PWD OLDPWD _ BASH_COMMAND BASH_SUBSHELL BASH_ARGV0 BASH_REMATCH FUNCNAME PIPESTATUS DIRSTACK GROUPS HISTCMD "
    "COLUMNS LINES OPTIND OPTARG COMP_WORDBREAKS"
)
"""Variables whose value the shell itself decides."""
_FORBIDDEN = names(
    "IFS PS4 UID EUID PPID SHELLOPTS BASHOPTS BASH_VERSINFO BASH_ENV ENV POSIXLY_CORRECT GLOBIGNORE "
    "EXECIGNORE BASH_COMPAT"
)
"""Variables that change how bash reads on, or that it does not let be set."""
_ALWAYS_SET = _ONE_WORD - {"!"} | names("0 ? - @ * _ HOME PATH PWD BASH_SOURCE BASH_VERSION PIPESTATUS")
_DATE = re.compile(r"""\$\(\s*date\s+["']?\+["']?(?:%[YmdHMSsFTyjNu]|[\w.:/-])+["']?\s*\)""", re.ASCII)
_VARIABLE = re.compile(r"(?<![A-Za-z0-9_])(?:\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$?([A-Za-z_][A-Za-z0-9_]*))")
_NUMBER = re.compile(
    r"\x01\$(?:RANDOM|SECONDS|EPOCHSECONDS|\(\([^\x01]*\)\)|\(\s*date\s+[\"']?\+[\"']?%s[\"']?\s*\))\x01"
)
"""Unknown values that are whole numbers."""
_BRACES = re.compile(r"\{[^{}]*(?:,|\.\.)[^{}]*\}")
_GLOB = re.compile(r"[*?]|\[[^ ]*\]")


@dataclass
class State:
    """The knowledge of the walk at one point of the script.

    Attributes:
        env: variable -> value, with unknown parts marked.
        options: those of `set` that are on.
        status: of the last pipeline (`$?`); None where it is not known.
        stages: the statuses of its commands (`PIPESTATUS`).
        loops: how many are around this point.
        jobs: the statuses of what runs in the background.
    """

    env: dict[str, str] = field(default_factory=dict)
    options: set[str] = field(default_factory=set)
    status: int | None = None
    stages: list[int | None] = field(default_factory=list)
    loops: int = 0
    jobs: list[int | None] = field(default_factory=list)

    def copy(self) -> State:
        """Return a copy, for a subshell or a branch."""
        return State(dict(self.env), set(self.options), self.status, list(self.stages))


class Words:
    """Expands words by a state.

    Args:
        substitute: walks the commands of a substitution, for what must be refused in them.
    """

    def __init__(self, state: State, substitute: Callable[[Substitution], None]):
        self.state, self._substitute = state, substitute

    def fields(self, word: Word) -> list[str]:
        """Return the arguments that a word becomes: unquoted, expanded and split, with unknown parts marked."""
        found: list[str] = []
        current: str | None = None
        pattern = ""  # what a shell looks for among the files; quoted characters are an x in it
        for part in word.parts:
            value = self._value(part, word.line)
            if isinstance(part, Text):
                current = (current or "") + _tilde(part, word, SOLID)
                pattern += "x" * len(value) if part.quoted else value
                continue
            if part.quoted and not _several(part):
                current = (current or "") + value.replace(LOOSE, SOLID)
                pattern += "x"
                continue
            for token in _TOKENS.findall(value):
                if token[0] in " \t\n":
                    found += [] if current is None else [current]
                    current, pattern = None, pattern + " "
                else:
                    current = (current or "") + token
                    known = token[0] not in (LOOSE, SOLID)
                    pattern += token.replace("\\", "*") if known else "x"
        found += [] if current is None else [current]
        return [f"{LOOSE}{word.source}{LOOSE}"] if _GLOB.search(pattern) or _braces(word) else found

    def value(self, word: Word) -> str:
        """Return the one value of a word on the right of an assignment or between `[[` and `]]`."""
        return "".join(
            _tilde(part, word, LOOSE) if isinstance(part, Text) else self._value(part, word.line) for part in word.parts
        )

    def assign(self, assignments: Sequence[Assignment], *, certain: bool = True) -> None:
        """Set variables one after the other; what may be set or not (`certain` false) is unknown from then on."""
        for assignment in assignments:
            self.store(assignment, self.assigned(assignment), certain=certain)

    def assigned(self, assignment: Assignment) -> str:
        """Return the value on the right of an assignment that is allowed."""
        name, line, value = assignment.name, assignment.value.line, self.value(assignment.value)
        if name in _FORBIDDEN or (name == "PATH" and not re.search(r"\0\$\{?PATH", value)):
            raise refusal(line, f"{name}=", "keep $PATH in it" if name == "PATH" else "delete it")
        return value

    def store(self, assignment: Assignment, value: str, *, certain: bool) -> None:
        """Set one variable; what may be set or not (`certain` false) is unknown from then on."""
        name, line = assignment.name, assignment.value.line
        if assignment.append:
            value = self._parameter(Parameter(f"${name}", name, quoted=True), line) + value
        if len(value) > MAX_VALUE:
            raise UserError(f"line {line}: {name} grows beyond {MAX_VALUE} characters; shorten it")
        if name in _DYNAMIC or (not certain and name not in self.state.env):
            return  # what is not in `env` is not known
        self.state.env[name] = value if certain else f"{LOOSE}${name}{LOOSE}"

    def _value(self, part: Part, line: int) -> str:
        if isinstance(part, Text):
            return part.text
        if isinstance(part, Parameter):
            return self._parameter(part, line)
        if isinstance(part, Arithmetic):
            return self._sum(part, line)
        if isinstance(part, Substitution):
            self._substitute(part)
            mark = SOLID if part.file or _DATE.fullmatch(part.source) else LOOSE
            return f"{mark}{readable(part.source)}{mark}"
        for word in part.words:
            self.fields(word)
        if not part.array:
            self._must_be_set(part.name, part.source, line)
        mark = SOLID if part.source.startswith("${#") else LOOSE
        return f"{mark}{readable(part.source)}{mark}"

    def _parameter(self, part: Parameter, line: int) -> str:
        value = self._known(part.name)
        if not part.operator:
            if value is None:
                self._must_be_set(part.name, part.source, line)
                mark = SOLID if part.name in _ONE_WORD else LOOSE
                return f"{mark}{readable(part.source)}{mark}"
            return value
        if value is None or (part.operator[0] == ":" and value and not known_part(value)):
            return f"{LOOSE}{readable(part.source)}{LOOSE}"
        there = bool(value) or part.operator[0] != ":"
        if there and part.operator[-1] == "-":
            return value
        return "".join(self._value(piece, line) for piece in part.other) if there or part.operator[-1] == "-" else ""

    def _known(self, name: str) -> str | None:
        if name == "?":
            return None if self.state.status is None else str(self.state.status)
        if name.startswith("PIPESTATUS["):
            stage = whole(name[11:-1])
            status = self.state.stages[stage] if stage is not None and stage < len(self.state.stages) else None
            return None if status is None else str(status)
        return self.state.env.get(name)

    def _must_be_set(self, name: str, source: str, line: int) -> None:
        if "nounset" in self.state.options and name.partition("[")[0] not in _ALWAYS_SET | self.state.env.keys():
            raise UserError(
                f"line {line}: {source} is not set in the script, where 'set -u' ends it; set it, or delete 'set -u'"
            )

    def _sum(self, part: Arithmetic, line: int) -> str:
        try:
            result = calculate(_VARIABLE.sub(lambda match: self._number(match[1] or match[2]), part.expression))
        except ValueError:
            raise refusal(line, part.source, "write the value") from None
        return f"{SOLID}{readable(part.source)}{SOLID}" if result is None else str(result)

    def _number(self, name: str) -> str:
        value = self.state.env.get(name, f"{SOLID}${name}{SOLID}")
        return value if re.fullmatch(r"[0-9]+", value) else UNKNOWN if _NUMBER.fullmatch(value) else "?"


def unknown(text: str) -> bool:
    """Return whether a value has a part that only a shell could tell."""
    return LOOSE in text or SOLID in text


def known_part(text: str) -> str:
    """Return a value without its unknown parts."""
    return _MARKED.sub("", text)


def readable(text: str) -> str:
    """Return a value for a message, with unknown parts as the script writes them."""
    return text.replace(LOOSE, "").replace(SOLID, "")


def _several(part: Part) -> bool:
    """Return whether a part is several words even in quotes."""
    name = getattr(part, "name", "")
    return name == "@" or (isinstance(part, Opaque) and "@" in part.source)


def _tilde(part: Text, word: Word, mark: str) -> str:
    """Return the text with an unquoted ~ that may be a home folder marked as unknown."""
    if part.quoted or "~" not in part.text:
        return part.text
    start = r"(?:(?<=[:=])|^)" if part is word.parts[0] else r"(?<=[:=])"
    return re.sub(rf"{start}~[^/:]*", lambda match: f"{mark}{match[0]}{mark}", part.text)


def _braces(word: Word) -> bool:
    plain = (part.text if isinstance(part, Text) and not part.quoted else "x" for part in word.parts)
    return _BRACES.search("".join(plain)) is not None
