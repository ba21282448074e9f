"""Words and operators of a shell script, quoted and joined as bash does it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable

from ..errors import UserError
from .tree import Arithmetic, Commands, Opaque, Parameter, Part, Substitution, Text, Word, refusal

OPERATOR = re.compile(r"&>>|&>|&&|\|\||;;&|;&|;;|\|&|[;&|()\n]|\d*(?:<<<|<<-|<<|<&|<>|<|>>|>&|>\||>)")
META = " \t\n;&|()<>"
MAX_DEPTH = 40
"""Most levels of nesting that are read."""
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_DOLLAR = re.compile(rf"\$({_NAME}|[0-9@*#?$!-])")
_BRACED = re.compile(rf"\$\{{({_NAME}|[0-9]+|[@*#?$!-]|PIPESTATUS\[[0-9]+\])\}}")
_DEFAULT = re.compile(rf"\$\{{({_NAME}|[0-9]+)(:?[-+])")
_SUM = re.compile(r"\$\(\(([^()]*(?:\([^()]*\)[^()]*)*)\)\)")
_OPAQUE = re.compile(
    rf"\$\{{(?:#({_NAME})(?:\[[@*\w]+\])?|!?({_NAME})\[\$?[@*\w]+\]|!({_NAME})[@*]?"
    rf"|({_NAME})(?:%%?|##?|//?|\^\^?|,,?)[^'\"`$\\{{}}]*|({_NAME}):[0-9]+(?::[0-9]+)?)\}}",
    re.ASCII,
)
_UNQUOTED = re.compile(r"[^ \t\n;&|()<>\\'\"$`]+")
_QUOTED = re.compile(r"[^\"\\$`]+")
_PLAIN = re.compile(r"[^'\"\\{~\n$`}]+")
_ARRAY = re.compile(rf"({_NAME})\+?=")
_ELEMENT = re.compile(rf"{_NAME}\[")


class Lexer:
    """The tokens of `text`: a `Word`, an operator, or an empty string at the end.

    Args:
        text: a script, or a part of one.
        line: number of its first line.
        parse: reads the commands of a `$(...)` from this lexer, up to its `)`.
    """

    def __init__(self, text: str, parse: Callable[[Lexer, str], Commands], line: int = 1, depth: int = 0):
        self.text, self.parse, self.first, self.depth = text, parse, line, depth
        self.at = self.start = self.end = 0
        self._breaks = [i for i, char in enumerate(text) if char == "\n"]
        self._peeked: Word | str | None = None

    def line(self, at: int | None = None) -> int:
        """Return the line of the last token, or of a position."""
        return self.first + bisect_right(self._breaks, (self.start if at is None else at) - 1)

    def peek(self) -> Word | str:
        """Return the next token without consuming it."""
        if self._peeked is None:
            self._peeked = self._token()
        return self._peeked

    def next(self) -> Word | str:
        """Return the next token and consume it."""
        token, self._peeked = self.peek(), None
        self.end = self.at
        return token

    def deeper(self, levels: int) -> None:
        """Count a level of nesting in (1) or out (-1)."""
        self.depth += levels
        if self.depth > MAX_DEPTH:
            raise UserError(f"line {self.line()}: more than {MAX_DEPTH} levels are nested; write the calls out")

    def _token(self) -> Word | str:
        self._blanks()
        self.start = start = self.at
        if not self.text.startswith(("<(", ">("), self.at) and (match := OPERATOR.match(self.text, self.at)):
            self.at = match.end()
            return match[0]
        word = self._word() if self.at < len(self.text) else ""
        self.start = start  # a $(...) inside has moved it
        return word

    def _blanks(self) -> None:
        while self.at < len(self.text):
            if self.text.startswith("\\\n", self.at):
                self.at += 2
            elif self.text[self.at] in " \t":
                self.at += 1
            elif self.text[self.at] == "#":  # a backslash at the end of a comment does not continue it
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return

    def _word(self) -> Word:
        start, parts = self.at, list[Part]()
        if self.text.startswith(("<(", ">("), self.at):
            parts.append(self._commands(2, quoted=False))
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "(" and len(parts) == 1 and isinstance(parts[0], Text):
                match = _ARRAY.fullmatch(parts[0].text)
                if match and not parts[0].quoted:
                    parts.append(self._array(match[1]))
                    continue
            if char in META:
                break
            if char == "\\":
                escaped = self.text[self.at + 1 : self.at + 2]
                if not escaped:
                    raise self._unclosed("line with \\ at its end", self.at)
                parts += [] if escaped == "\n" else [Text(escaped, quoted=True)]
                self.at += 2
            elif char == "'":
                parts.append(Text(self._until("'"), quoted=True))
            elif char == '"':
                parts += self._double()
            elif char in "$`":
                parts.append(self._expansion(quoted=False))
            else:
                self._run(parts, _UNQUOTED, quoted=False)
        word = Word(self.line(start), self.text[start : self.at], tuple(parts))
        if self.text[self.at : self.at + 1] in ("<", ">") and self.text[self.at : self.at + 2] in ("<(", ">("):
            raise refusal(word.line, word.source + self.text[self.at : self.at + 2], "put a space before it")
        if re.fullmatch(r"\{\w+\}", word.plain) and self.text[self.at : self.at + 1] in ("<", ">"):
            raise refusal(word.line, word.source + self.text[self.at], "redirect to a file")
        return word

    def _run(self, parts: list[Part], characters: re.Pattern[str], *, quoted: bool) -> None:
        match = characters.match(self.text, self.at)
        text, self.at = (match[0], match.end()) if match else (self.text[self.at], self.at + 1)
        last = parts[-1] if parts else None
        if isinstance(last, Text) and last.quoted == quoted:
            parts[-1] = Text(last.text + text, quoted)
        else:
            parts.append(Text(text, quoted))

    def _until(self, quote: str) -> str:
        start = self.at + 1
        end = self.text.find(quote, start)
        if end < 0:
            raise self._unclosed(quote, start)
        self.at = end + 1
        return self.text[start:end]

    def _unclosed(self, opening: str, at: int) -> UserError:
        return UserError(f"line {self.line(at)}: a {opening} is never closed; the script is cut off")

    def _double(self) -> list[Part]:
        start, parts = self.at, list[Part]([Text("", quoted=True)])
        self.at += 1
        while self.at < len(self.text):
            char, two = self.text[self.at], self.text[self.at : self.at + 2]
            if char == '"':
                self.at += 1
                return parts
            if char == "\\" and two[1:] in ("\n", "$", "`", '"', "\\"):
                parts.append(Text(two[1:].replace("\n", ""), quoted=True))
                self.at += 2
            elif char in "$`":
                parts.append(self._expansion(quoted=True))
            elif char == "\\":
                parts.append(Text(char, quoted=True))
                self.at += 1
            else:
                self._run(parts, _QUOTED, quoted=True)
        raise self._unclosed('"', start)

    def _expansion(self, *, quoted: bool) -> Part:
        """Read what begins with `$` or a backtick."""
        text, at = self.text, self.at
        if text[at] == "`":
            return self._backticks(quoted)
        if match := _SUM.match(text, at):
            self.at = match.end()
            return Arithmetic(match[0], match[1], quoted)
        if text.startswith("$(", at):
            if text.startswith("$((", at):
                raise refusal(self.line(at), text[at : at + 20], "write the value")
            return self._commands(2, quoted)
        if match := _DOLLAR.match(text, at) or _BRACED.match(text, at):
            self.at = match.end()
            return Parameter(match[0], match[1], quoted)
        if match := _DEFAULT.match(text, at):
            self.at = match.end()
            other = self._other(match[0])
            return Parameter(text[at : self.at], match[1], quoted, match[2], other)
        if match := _OPAQUE.match(text, at):
            self.at = match.end()
            return Opaque(match[0], next(name for name in match.groups() if name), quoted)
        if text[at + 1 : at + 2] in ("{", "[") or (not quoted and text[at + 1 : at + 2] in ("'", '"')):
            source = re.match(r"[^\n}]{1,40}\}?", text[at:])
            raise refusal(self.line(at), source[0] if source else "$", "write the value")
        self.at += 1
        return Text("$", quoted=True)

    def _other(self, opening: str) -> tuple[Part, ...]:
        """Read the text after the `:-` of `${name:-other}`."""
        start, parts = self.at, list[Part]()
        while self.at < len(self.text) and self.text[self.at] != "}":
            char = self.text[self.at]
            if char in "'\"\\{~\n":
                raise refusal(self.line(start), opening + "...", "write the value without quotes inside of ${...}")
            if char in "$`":
                self.deeper(1)
                parts.append(self._expansion(quoted=True))
                self.deeper(-1)
            else:
                self._run(parts, _PLAIN, quoted=True)
        if self.at >= len(self.text):
            raise self._unclosed("${", start)
        self.at += 1
        return tuple(parts)

    def _commands(self, opening: int, quoted: bool) -> Substitution:
        start = self.at
        self.at += opening
        self.deeper(1)
        body = self.parse(self, ")")
        self.deeper(-1)
        source = self.text[start : self.at]
        return Substitution(source, body, quoted, file=source[0] in "<>")

    def _backticks(self, quoted: bool) -> Substitution:
        start = self.at
        match = re.compile(r"`((?:[^`\\]|\\.)*)`", re.DOTALL).match(self.text, start)
        if match is None:
            raise self._unclosed("`", start)
        self.at = match.end()
        inner = re.sub(r"\\([$`\\\"])" if quoted else r"\\([$`\\])", r"\1", match[1])
        self.deeper(1)
        body = self.parse(Lexer(inner, self.parse, self.line(start), self.depth), "")
        self.deeper(-1)
        return Substitution(match[0], body, quoted)

    def _array(self, name: str) -> Opaque:
        start, words = self.at, list[Word]()
        self.at += 1
        while (token := self._token()) != ")":
            if token == "":
                raise self._unclosed("(", start)
            if isinstance(token, Word):
                words.append(token)
            elif token != "\n":
                raise refusal(self.line(start), f"{name}=(... {token}", "write the array's words alone")
        return Opaque(self.text[start : self.at], name, quoted=False, words=tuple(words))


def is_element(word: Word) -> bool:
    """Return whether a word in front of a command may set an element of an array, as `list[0]=x` does."""
    first = word.parts[0] if word.parts else None
    return isinstance(first, Text) and not first.quoted and _ELEMENT.match(first.text) is not None
