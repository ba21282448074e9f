"""The commands of a shell script as a tree; constructs that are not read are refused here by their name."""

from __future__ import annotations

import re
from dataclasses import replace

from ..errors import UserError
from .lexer import Lexer, is_element
from .tree import (
    AndOr,
    Assignment,
    Branch,
    Command,
    Commands,
    DoubleBracket,
    For,
    Group,
    If,
    Pipeline,
    Redirection,
    Simple,
    Text,
    Word,
    refusal,
    shown,
)

REFUSED = {
    "while": "write the turns as a for loop over a list",
    "until": "write the turns as a for loop over a list",
    "case": "keep only the branch that counts",
    "select": "write the choice as a variable",
    "function": "write what it does in the place of its calls",
    "coproc": "write the call as a line of its own",
}
"""Constructs that are not read, with what to write instead."""
INNER = frozenset(("do", "done", "then", "else", "elif", "fi", "esac", "}"))
"""Words that belong to an earlier one."""
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
ONE = "write one comparison for each [[ ]], or [ ]"
_FUNCTION = "write what the function does in the place of its calls"
_REDIRECTION = re.compile(r"\d*[<>]|&>")


def parse(text: str) -> Commands:
    """Return the commands of a script.

    Raises:
        UserError: with the line, shell that is not read.

    >>> [item.pipelines[0][1].source for item in parse("a=1; b && c")]
    ['a=1', 'b']
    """
    return _nested(Lexer(text, _nested), "")


def _nested(lexer: Lexer, end: str) -> Commands:
    """Read all commands up to `end`: an empty string for the end of the text, or the `)` of a `$(...)`."""
    parser = _Parser(lexer)
    commands = parser.commands()
    if (token := lexer.next()) != end:
        raise parser.unexpected(token)
    return commands


class _Parser:
    def __init__(self, lexer: Lexer):
        self.lexer = lexer

    def commands(self, *ends: str) -> Commands:
        """Read commands up to one of the words `ends`, to the end of the text or to a `)`."""
        found: list[AndOr] = []
        while True:
            while self.lexer.peek() == "\n":
                self.lexer.next()
            token = self.lexer.peek()
            if token in ("", ")") or (isinstance(token, Word) and token.plain in ends):
                return tuple(found)
            item = self._and_or()
            token = self.lexer.peek()
            if token in (";", "&", "\n"):
                self.lexer.next()
                item = replace(item, background=token == "&")
            elif token not in ("", ")") and not (isinstance(token, Word) and token.plain in ends):
                raise self.unexpected(token)
            found.append(item)

    def unexpected(self, token: Word | str) -> UserError:
        line = self.lexer.line()
        if isinstance(token, Word):
            if token.plain in INNER:
                return UserError(f"line {line}: '{token.plain}' without its for or if; check the script's loops")
            token = token.source
        if token == "(" and self.lexer.text.startswith("(", self.lexer.at):
            return refusal(line, "((", "write NAME=VALUE for what it sets")
        if token == "(":
            return refusal(line, "(", "write what stands in parentheses without them")
        what = "the end of the line" if token in ("", "\n") else f"'{shown(token)}'"
        return UserError(f"line {line}: a command is expected before {what}; check the script with bash -n")

    def _and_or(self) -> AndOr:
        pipelines = [("", self._pipeline())]
        while (token := self.lexer.peek()) in ("&&", "||"):
            self.lexer.next()
            self._newlines()
            pipelines.append((str(token), self._pipeline()))
        return AndOr(tuple(pipelines))

    def _newlines(self) -> None:
        while self.lexer.peek() == "\n":
            self.lexer.next()

    def _pipeline(self) -> Pipeline:
        token, line, start = self.lexer.peek(), self.lexer.line(), self.lexer.start
        negated = isinstance(token, Word) and token.plain == "!"
        if negated:
            self.lexer.next()
        token = self.lexer.peek()
        if isinstance(token, Word) and token.plain == "time":
            self.lexer.next()
            token = self.lexer.peek()
            if isinstance(token, Word) and token.plain == "-p":
                self.lexer.next()
        commands = [self._command()]
        while self.lexer.peek() in ("|", "|&"):
            self.lexer.next()
            self._newlines()
            commands.append(self._command())
        return Pipeline(line, self._source(start), tuple(commands), negated)

    def _source(self, start: int) -> str:
        return self.lexer.text[start : self.lexer.end]

    def _command(self) -> Command:
        token, line = self.lexer.peek(), self.lexer.line()
        word = token.plain if isinstance(token, Word) else ""
        if word in REFUSED:
            raise refusal(line, word, REFUSED[word])
        if word in INNER or word == "!" or not (isinstance(token, Word) or _REDIRECTION.match(token)):
            raise self.unexpected(token)
        if word not in ("for", "if", "{", "[["):
            return self._simple()
        self.lexer.deeper(1)
        command = {"for": self._for, "if": self._if, "{": self._group, "[[": self._brackets}[word]()
        self.lexer.deeper(-1)
        redirections: list[Redirection] = []
        while redirection := self._redirection():
            redirections.append(redirection)
        return replace(command, redirections=tuple(redirections))

    def _redirection(self) -> Redirection | None:
        token, line = self.lexer.peek(), self.lexer.line()
        if isinstance(token, Word) or not _REDIRECTION.match(token):
            return None
        if "<<" in token:
            raise refusal(line, token, "write that file beforehand, or delete the line")
        self.lexer.next()
        target = self.lexer.next()
        if not isinstance(target, Word):
            raise self.unexpected(target)
        return Redirection(token, target)

    def _simple(self) -> Simple:
        line, start = self.lexer.line(), self.lexer.start
        assignments, words, redirections = list[Assignment](), list[Word](), list[Redirection]()
        while True:
            if redirection := self._redirection():
                redirections.append(redirection)
                continue
            token = self.lexer.peek()
            if token == "(":
                raise refusal(line, f"{self._source(start)}()", _FUNCTION)
            if not isinstance(token, Word):
                break
            self.lexer.next()
            if not words and (assignment := assigned(token)):
                assignments.append(assignment)
                continue
            if not words and is_element(token):
                raise refusal(line, token.source, "write a variable for each value instead of an array")
            if any(getattr(part, "array", False) for part in token.parts):
                raise refusal(line, token.source, "write a variable for each value instead of an array")
            words.append(token)
        return Simple(line, self._source(start), tuple(words), tuple(assignments), tuple(redirections))

    def _expect(self, word: str, opening: str, line: int, closing: str) -> None:
        token = self.lexer.next()
        if token == "":
            raise UserError(f"line {line}: this {opening} has no {closing}; the script is cut off")
        if not isinstance(token, Word) or token.plain != word:
            raise self.unexpected(token)

    def _body(self, opening: str, line: int, *ends: str) -> Commands:
        commands = self.commands(*ends)
        if self.lexer.peek() == "":
            raise UserError(f"line {line}: this {opening} has no {ends[-1]}; the script is cut off")
        if not commands:
            raise self.unexpected(self.lexer.peek())
        return commands

    def _for(self) -> For:
        line, start = self.lexer.line(), self.lexer.start
        self.lexer.next()
        name, words = self.lexer.next(), list[Word]()
        self._newlines()
        marker = self.lexer.peek()
        if (
            not isinstance(name, Word)
            or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.plain)
            or not (isinstance(marker, Word) and marker.plain == "in")
        ):
            raise self._no_list(line, start)
        self.lexer.next()
        while isinstance(token := self.lexer.peek(), Word):
            words.append(token)
            self.lexer.next()
        if token not in (";", "\n"):
            raise self._no_list(line, start)
        self.lexer.next()
        self._newlines()
        token = self.lexer.peek()
        if not isinstance(token, Word) or token.plain != "do":
            if token == "":
                raise UserError(f"line {line}: this for has no done; the script is cut off")
            raise self._no_list(line, start)
        self.lexer.next()
        body = self._body("for", line, "done")
        self._expect("done", "for", line, "done")
        return For(line, name.plain, tuple(words), body)

    def _no_list(self, line: int, start: int) -> UserError:
        source = shown(self._source(start))
        return UserError(f"line {line}: '{source}' is no loop over a list; expected for X in A B C; do")

    def _if(self) -> If:
        line, branches, word = self.lexer.line(), list[Branch](), "if"
        while word in ("if", "elif"):
            begin, start = self.lexer.line(), self.lexer.start
            self.lexer.next()
            condition = self._body("if", line, "then", "else", "elif", "fi")
            source = self._source(start).strip().removesuffix(";")
            token = self.lexer.peek()
            if not isinstance(token, Word) or token.plain != "then":
                raise UserError(f"line {begin}: '{shown(source)}' has no then; check the script")
            self.lexer.next()
            body = self._body("if", line, "elif", "else", "fi")
            branches.append(Branch(begin, source, condition, body))
            token = self.lexer.peek()
            word = token.plain if isinstance(token, Word) else ""
        otherwise: Commands = ()
        if word == "else":
            self.lexer.next()
            otherwise = self._body("if", line, "fi")
        self._expect("fi", "if", line, "fi")
        return If(line, tuple(branches), otherwise)

    def _group(self) -> Group:
        line = self.lexer.line()
        self.lexer.next()
        body = self._body("{", line, "}")
        self._expect("}", "{", line, "}")
        return Group(line, body)

    def _brackets(self) -> DoubleBracket:
        line, start, words = self.lexer.line(), self.lexer.start, list[Word]()
        self.lexer.next()
        while True:
            token = self.lexer.next()
            if token in ("", "\n"):
                raise UserError(f"line {line}: this [[ has no ]]; write it on one line")
            if isinstance(token, Word) and token.plain == "]]":
                break
            if not isinstance(token, Word):
                raise refusal(line, f"[[ ... {token}", ONE)
            words.append(token)
        negated = len(words) > 1 and words[0].plain == "!"
        words = words[1:] if negated else words
        sign = words[1].plain if len(words) == 3 else words[0].plain if len(words) == 2 else ""
        known = {1: "", 2: r"-[a-hknoprstuvwxzGLNORS]", 3: r"==?|!=|=~|-(?:eq|ne|l[te]|g[te]|[no]t|ef)"}
        first = words[0].plain if len(words) in (1, 3) else ""  # an operator there is one for bash
        if not re.fullmatch(known.get(len(words), "x"), sign) or re.fullmatch(r"-.|!|!?=+|=~", first):
            raise refusal(line, self._source(start), ONE)
        return DoubleBracket(line, self._source(start), tuple(words), sign, negated)


def assigned(word: Word) -> Assignment | None:
    """Return the assignment that a word in front of a command, or after `export`, is."""
    first = word.parts[0] if word.parts else None
    if not isinstance(first, Text) or first.quoted or not (match := _ASSIGNMENT.match(first.text)):
        return None
    rest = Text(first.text[match.end() :], quoted=False)
    value = Word(word.line, word.source[match.end() :], (rest, *word.parts[1:]) if rest.text else word.parts[1:])
    return Assignment(match[1], value, append=match[2] == "+")
