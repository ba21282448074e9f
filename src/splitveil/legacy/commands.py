"""The commands that a script may have beside its trainings, and how the script goes on after them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .tree import DoubleBracket, refusal
from .words import LOOSE, names, unknown

SUCCEED = names("echo : true pwd touch tee pushd popd conda module source .")
"""Commands that change neither a variable nor the flow, and succeed; those that set up Python are assumed to."""
MAY_FAIL = names(
    "cd mkdir printf date sleep hostname whoami uname dirname basename seq nproc clear ulimit umask "
    "nvidia-smi nvcc ls cat cp mv rm ln head tail grep wc sort uniq cut tr bc du df free ps command type which "
    "realpath readlink tar unzip gzip wget curl pip pip3 chmod"
)
"""Commands that change neither a variable nor the flow, and may succeed or fail."""
SURE = {
    "mkdir": re.compile(r"-p .+", re.DOTALL),
    "printf": re.compile(r"(?!.*%[-+ #0-9.*]*[^-+ #0-9.*sb%]).*", re.DOTALL),
    "date": re.compile(r"(?:\+.*)?", re.DOTALL),
    "sleep": re.compile(r"[0-9]+(?:\.[0-9]+)?[smhd]?"),
    "uname": re.compile(r"(?:-[asnrvmpio]+)?"),
    "seq": re.compile(r"[0-9]+(?: [0-9]+)?"),
    **dict.fromkeys(("dirname", "basename"), re.compile(r"[^-].*", re.DOTALL)),
    **dict.fromkeys(("cat", "hostname", "whoami", "nproc"), re.compile("")),
}
"""Arguments with which some of these commands succeed, or, as `mkdir -p`, are assumed to."""
ADVICE = {
    **dict.fromkeys(("declare", "typeset", "local", "readonly"), "write NAME=VALUE alone"),
    **dict.fromkeys(("let", "read", "mapfile", "readarray", "getopts", "shift"), "write NAME=VALUE for what it sets"),
    **dict.fromkeys(("bash", "sh", "zsh"), "give that script to splitveil legacy by itself"),
    **dict.fromkeys(("eval", "xargs", "parallel", "builtin", "srun"), "write the call without it"),
    "source": "write what that file sets in its place",
    ".": "write what that file sets in its place",
    "trap": "delete the line",
    "return": "write exit, or delete the line",
    "printf": "write NAME=VALUE for what -v sets",
}
"""What to write instead of a command that is not read."""
OTHERWISE = "delete the line if the trainings do not need it, or write what it does as python main_MIA.py calls"
SCRIPT = re.compile(r"(?:.*/)?(main_(?:test_)?MIA\w*\.py)", re.DOTALL)
_PYTHON = re.compile(r"(?:.*/)?python(?:[23](?:\.[0-9]+)?)?", re.DOTALL)
_BEFORE = ("nohup", "env", "/usr/bin/env", "nice", "stdbuf")
_PREFIX = re.compile(
    "nohup\2|(?:/usr/bin/)?env\2(?:[A-Za-z_][A-Za-z0-9_]*=[^\0\2]*\2)*|nice\2(?:-n\2-?[0-9]+\2)?|stdbuf\2(?:-[ioe][L0]\2)+"
)
"""Commands that run the one behind them, with the arguments of their own that are read; `\\2` ends each."""
_FIRST = {
    "printf": re.compile("(?!-v|\0)"),
    "conda": re.compile("(?:de)?activate$"),
    "source": re.compile(r"(?:.*/)?(?:activate|conda\.sh)$", re.DOTALL),
    ".": re.compile(r"(?:.*/)?(?:activate|conda\.sh)$", re.DOTALL),
    "command": re.compile("-[vV]$"),
}
"""The first arguments with which these commands are read."""
_SWITCH = re.compile(r"-[bBdEiIOPqsSuv]+")
_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,18})\s*", re.ASCII)
_NUMBERS = {
    "-eq": lambda a, b: a == b,
    "-ne": lambda a, b: a != b,
    "-lt": lambda a, b: a < b,
    "-le": lambda a, b: a <= b,
    "-gt": lambda a, b: a > b,
    "-ge": lambda a, b: a >= b,
}
_OF_FILES = re.compile(r"-[abcdefghkprstuwxGLNOSvoR]")
_BINARY = frozenset(("=", "==", "!=", "<", ">", "-nt", "-ot", "-ef", "-a", "-o", *_NUMBERS))


@dataclass(frozen=True)
class Python:
    """A call of Python: its script and, where that is a published one, what follows it."""

    script: str
    argv: list[str] | None


def python(fields: Sequence[str], line: int, source: str) -> Python | None:
    """Return the Python call that a command is; None where it is no Python.

    Raises:
        UserError: which script runs is not known, or another program runs a published one.
    """
    words = list(fields)
    while words[:1] and words[0] in _BEFORE and (match := _PREFIX.match("".join(f"{word}\2" for word in words))):
        del words[: match[0].count("\2")]
    if not words or not _PYTHON.fullmatch(words[0]):
        if len(words) < len(fields):
            raise refusal(line, source, "write python main_MIA.py behind it, or delete the line")
        return None
    del words[0]
    while words and (_SWITCH.fullmatch(words[0]) or (words[0] in ("-W", "-X") and not unknown("".join(words[1:2])))):
        del words[: 2 if words[0] in ("-W", "-X") else 1]
    if words and (match := SCRIPT.fullmatch(words[0])):
        return Python(match[1], words[1:])
    name = words[0].rpartition("/")[2] if words else ""
    if unknown(name) or name in ("", "-") or re.search(r"main_(?:test_)?MIA", source + "".join(fields)):
        raise refusal(line, source, "write python main_MIA.py with its options")
    return Python(name, None)


def status(fields: Sequence[str], line: int, source: str) -> int | None:
    """Return the status of a command that changes neither variables nor the flow; None where it may succeed or fail.

    Raises:
        UserError: any other command.
    """
    name, arguments = fields[0], fields[1:]
    if name in ("[", "test"):
        if name == "[" and (not arguments or arguments[-1] != "]"):
            raise refusal(line, source, "close it with ]")
        return bracket(arguments[:-1] if name == "[" else arguments)
    if name == "false":
        return 1
    if not (name in SUCCEED or name in MAY_FAIL) or (name in _FIRST and not _FIRST[name].match("".join(arguments[:1]))):
        otherwise = "write python main_MIA.py with its options" if "main_MIA" in source else OTHERWISE
        raise refusal(line, source, ADVICE.get(name, otherwise))
    sure = name in SUCCEED or (name in SURE and SURE[name].fullmatch(" ".join(arguments)))
    if name == "cd":
        sure = len(arguments) < 2
    return 0 if sure else None


def bracket(words: Sequence[str]) -> int | None:
    """Return the status of `[ ... ]`: 0 true, 1 false, 2 wrong; None where only a shell could tell.

    >>> bracket(["a", "=", "a"]), bracket(["3", "-lt", "2"]), bracket(["-d", "saves"])
    (0, 1, None)
    """
    if any(LOOSE in word for word in words):
        return None
    if len(words) in (2, 3, 4) and words[0] == "!" and not (len(words) == 3 and words[1] in _BINARY):
        inner = bracket(words[1:])
        return inner if inner in (None, 2) else int(not inner)
    if len(words) == 3 and words[1] in _BINARY:
        return _compare(*words)
    if len(words) == 2 and words[0] in ("-n", "-z"):
        return None if unknown(words[1]) else int((words[1] != "") == (words[0] == "-z"))
    if len(words) == 2 and not _OF_FILES.fullmatch(words[0]):
        return None if unknown(words[0]) else 2
    if len(words) < 2:
        return None if words and unknown(words[0]) else int(not words or words[0] == "")
    return None


def _compare(left: str, sign: str, right: str) -> int | None:
    if unknown(left + right):
        return None
    if sign in ("=", "==", "!="):
        return int((left == right) == (sign == "!="))
    if sign not in _NUMBERS:
        return None
    numbers = [_INTEGER.fullmatch(text) for text in (left, right)]
    if not all(numbers):
        return None if any(len(text) > 18 for text in (left, right)) else 2
    first, second = (int(match[1]) for match in numbers if match)
    return int(not _NUMBERS[sign](first, second))


def double_bracket(command: DoubleBracket, values: Sequence[str]) -> int | None:
    """Return the status of `[[ ... ]]`, whose words are not split; None where only a shell could tell.

    Raises:
        UserError: numbers that bash would work out.
    """
    sign, result = command.sign, None
    if sign in _NUMBERS:
        if not all(unknown(value) or re.fullmatch(r"-?(?:0|[1-9][0-9]{0,17})", value) for value in values[::2]):
            raise refusal(command.line, command.source, "write whole numbers, or compare with =")
        result = _compare(values[0], sign, values[2])
    elif sign in ("=", "==", "!=") and not re.search(r"[*?\[\\(|]", values[2]):
        result = _compare(*values)
    elif sign in ("-n", "-z") and not unknown(values[1]):
        result = bracket(values)
    elif sign == "" and not unknown(values[0]):
        result = int(values[0] == "")
    return result if result is None or not command.negated else int(not result)
