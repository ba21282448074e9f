"""The errors of this package: each is one line of what was got, what is expected and what to do."""

from __future__ import annotations

LONGEST = 300
"""Most letters of a text from elsewhere that a message shows."""


class EdgeError(Exception):
    """Any error of this package."""


class UserError(EdgeError):
    """Bad input, or a request that the server refuses for good: exit code 2."""


class ServerError(EdgeError):
    """A server that fails, does not answer in time, or answers with what it should not: exit code 1."""


def printable(text: str, longest: int = LONGEST) -> str:
    r"""Return a text from elsewhere as one short line, without the codes that steer a terminal.

    Args:
        text: any text, such as a server's message.
        longest: most letters of it.

    >>> printable("no such\nmodel\x1b[2J")
    'no such model[2J'
    """
    line = " ".join("".join(letter for letter in text if letter.isprintable() or letter.isspace()).split())
    return line if len(line) <= longest else f"{line[:longest]}..."
