"""The part of shell that published scripts are written in: variables, loops over lists, tests of two words.

Nothing is executed: the reader walks the loops and collects the calls of Python scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import UserError

UNKNOWN = "\0"
"""Begins a value that only a shell could tell, such as the output of a command."""
MAX_CALLS, MAX_TURNS = 10_000, 30_000
REFUSED = ("while", "until", "case", "select", "function", "eval")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")
_ASSIGNMENT = re.compile(r"(?:(?:export|local|readonly|declare)\s+)?([A-Za-z_]\w*)=(.*)", re.DOTALL)
_SCRIPT = re.compile(r"(?:.*/)?main_(?:test_)?MIA\w*\.py")


@dataclass(frozen=True)
class Call:
    """A call of one of the published Python scripts."""

    line: int
    script: str
    argv: list[str]


@dataclass(frozen=True)
class _Part:
    line: int
    text: str

    @property
    def keyword(self) -> str:
        return self.text.split(None, 1)[0]


def calls(text: str) -> list[Call]:
    """All calls of `main_MIA*.py` and `main_test_MIA*.py` that a run of the script would make, in order.

    Raises:
        UserError: shell beyond variables, for loops, if tests of two words; too many turns or calls.

    >>> [call.argv for call in calls('for x in 1 2; do python main_MIA.py --lambd=$x; done')]
    [['--lambd=1'], ['--lambd=2']]
    """
    reader = _Reader(list(_parts(text)))
    reader.block(0, len(reader.parts), {})
    return reader.found


class _Reader:
    def __init__(self, parts: list[_Part]):
        self.parts, self.found, self.turns = parts, list[Call](), 0

    def block(self, start: int, end: int, env: dict[str, str]) -> None:
        at = start
        while at < end:
            part = self.parts[at]
            if part.keyword == "for":
                at = self._for(at, end, env)
            elif part.keyword == "if":
                at = self._if(at, end, env)
            elif part.keyword in REFUSED or re.match(r"\w+\s*\(\)", part.text):
                raise UserError(
                    f"line {part.line}: '{part.keyword}' is not read; expected variables, for loops over "
                    "lists, if tests of two words, and python main_MIA.py calls"
                )
            elif part.keyword in ("do", "done", "then", "else", "elif", "fi"):
                raise UserError(f"line {part.line}: '{part.keyword}' without its for or if; check the script's loops")
            else:
                self._simple(part, env)
                at += 1

    def _for(self, at: int, end: int, env: dict[str, str]) -> int:
        part = self.parts[at]
        match = re.fullmatch(r"for\s+(\w+)\s+in\s+(.*)", part.text, re.DOTALL)
        close = self._closing(at, end, "for", "done")
        if match is None or at + 1 >= close or self.parts[at + 1].keyword != "do":
            raise UserError(f"line {part.line}: '{part.text}' is no loop over a list; expected for X in A B C; do")
        values = [value for word in _words(match[2]) for value in _expand(word, env)]
        for value in values:
            if UNKNOWN in value:
                raise UserError(
                    f'line {part.line}: the list {match[2]} is not known without a shell; write it as "a b c"'
                )
            self.turns += 1
            if self.turns > MAX_TURNS:
                raise UserError(f"line {part.line}: the loops turn more than {MAX_TURNS} times; shorten the lists")
            env[match[1]] = value
            self.block(at + 2, close, env)
        return close + 1

    def _if(self, at: int, end: int, env: dict[str, str]) -> int:
        close = self._closing(at, end, "if", "fi")
        branches, depth, first = [], 0, at
        for i in range(at + 1, close + 1):
            word = self.parts[i].keyword
            if depth == 0 and word in ("elif", "else", "fi"):
                branches.append((first, i))
                first = i
            depth += {"if": 1, "fi": -1}.get(word, 0) if i < close else 0
        for begin, stop in branches:
            head = self.parts[begin]
            if head.keyword == "else":
                self.block(begin + 1, stop, env)
                break
            truth = self._test(head, env)
            if truth is None:
                inside = self.parts[at:close]
                if any(_SCRIPT.fullmatch(word.strip("'\"")) for p in inside for word in _words(p.text)):
                    raise UserError(
                        f"line {head.line}: '{head.text}' cannot be decided without a shell; "
                        "keep only the branch that counts"
                    )
                self._forget(inside, env)
                break
            if truth:
                if begin + 1 >= stop or self.parts[begin + 1].keyword != "then":
                    raise UserError(f"line {head.line}: '{head.text}' has no then; check the script")
                self.block(begin + 2, stop, env)
                break
        return close + 1

    def _test(self, part: _Part, env: dict[str, str]) -> bool | None:
        words = _words(part.text)[1:]
        if (
            len(words) != 5
            or (words[0], words[-1]) not in (("[", "]"), ("[[", "]]"))
            or words[2] not in ("=", "==", "!=")
        ):
            return None
        left, right = (" ".join(_expand(words[i], env)) for i in (1, 3))
        return None if UNKNOWN in left + right else (left == right) == (words[2] != "!=")

    def _forget(self, parts: list[_Part], env: dict[str, str]) -> None:
        for part in parts:
            if match := _ASSIGNMENT.fullmatch(part.text):
                env[match[1]] = UNKNOWN + part.text

    def _closing(self, at: int, end: int, opening: str, closing: str) -> int:
        depth = 0
        for i in range(at, end):
            depth += {opening: 1, closing: -1}.get(self.parts[i].keyword, 0)
            if depth == 0:
                return i
        raise UserError(f"line {self.parts[at].line}: this {opening} has no {closing}; the script is cut off")

    def _simple(self, part: _Part, env: dict[str, str]) -> None:
        words = _words(part.text)
        script = next((i for i, word in enumerate(words) if _SCRIPT.fullmatch(word.strip("'\""))), None)
        if script is None:
            if (match := _ASSIGNMENT.fullmatch(part.text)) and len(_words(match[2])) <= 1:
                env[match[1]] = "".join(_expand(match[2], env, split=False))
            return
        if len(self.found) >= MAX_CALLS:
            raise UserError(f"line {part.line}: the script makes more than {MAX_CALLS} calls; shorten its lists")
        argv = []
        for word in words[script + 1 :]:
            if re.match(r"\d?>|\||<|&", word):  # a redirection or pipe ends the arguments
                break
            argv += _expand(word, env)
        self.found.append(Call(part.line, words[script].strip("'\"").rpartition("/")[2], argv))


def _parts(text: str) -> Iterator[_Part]:
    """Commands without comments, split at line ends and `;`, with `do`, `then` and `else` standing alone."""
    text = re.sub(r"\\\r?\n", lambda m: "\x01", text).replace("\r\n", "\n")
    line, start, buffer, quote = 1, 1, "", ""
    for i, char in enumerate(text + "\n"):
        if quote == "#":
            if char not in "\n\x01":
                continue
            quote, char = "", "\n"  # a backslash at the end of a comment does not continue it
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"`":
            quote = char
        elif char == "#" and (not buffer or buffer[-1] in " \t"):
            quote = "#"
            continue
        if (char == "\n" or (char == ";" and text[i : i + 2] != ";;")) and not quote:
            yield from _split(buffer.strip(), start)
            buffer = ""
        else:
            buffer += "" if char == "\x01" else char
        line += char in "\n\x01"
        start = line if not buffer.strip() else start
    if quote:
        raise UserError(f"line {start}: a {quote} is never closed; the script is cut off")


def _split(command: str, line: int) -> Iterator[_Part]:
    while command:
        word, _, rest = command.partition(" ")
        if word not in ("do", "then", "else"):
            yield _Part(line, command)
            return
        yield _Part(line, word)
        command = rest.strip()


def _words(text: str) -> list[str]:
    """Words with their quotes; a `$(...)` is one word."""
    words, word, quote, depth = [], "", "", 0
    for char in text:
        if char in "'\"`":
            quote = "" if quote == char else quote or char
        depth += (char == "(") - (char == ")")
        if char.isspace() and not quote and depth <= 0:
            words += [word] if word else []
            word = ""
        else:
            word += char
    return words + ([word] if word else [])


def _expand(word: str, env: dict[str, str], *, split: bool = True) -> list[str]:
    """The values of a word: quotes removed, variables put in, unquoted lists split at spaces."""
    value, quote, at, quoted, splits = "", "", 0, False, False
    while at < len(word):
        char = word[at]
        if char in "'\"" and quote in ("", char):
            quote, quoted, at = ("" if quote else char), True, at + 1
            continue
        if (char in "$`" and quote != "'") or (char == "(" and not quote):
            match = _VARIABLE.match(word, at)
            if match is None or (match[1] or match[2]) not in env:
                return [UNKNOWN + word]
            value, at, splits = value + env[match[1] or match[2]], match.end(), splits or not quote
            continue
        value, at = value + char, at + 1
    if not split or not splits or quoted:
        return [value] if value or quoted or not split else []
    return [UNKNOWN + word] if UNKNOWN in value else value.split()
