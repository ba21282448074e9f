"""`$((...))` of whole numbers as bash works it out."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable

UNKNOWN = "_"
"""Placeholder in a sum for a number that only a shell could tell."""
MAX_LENGTH, MAX_NUMBER = 200, 2**62
_SUM = re.compile(r"[-0-9+*/%() \t_]+")
_SIGNS: dict[type, Callable[[int], int]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),  # towards zero
    ast.Mod: lambda a, b: a - b * (abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)),
}


def calculate(text: str) -> int | None:
    """Return the value of a sum with +, -, *, / and %; None where it has a number that is not known.

    Raises:
        ValueError: anything else, such as an assignment, an octal number or a division by zero.

    >>> calculate("-7 / 2"), calculate("-7 % 3"), calculate("1 + _")
    (-3, -1, None)
    """
    if len(text) > MAX_LENGTH or not _SUM.fullmatch(text) or re.search(r"//|\*\*|\+\+|--|[0-9]_|_[0-9]", text):
        raise ValueError
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        raise ValueError from None


def _value(node: ast.expr) -> int | None:
    if isinstance(node, ast.Name) and node.id == UNKNOWN:
        return None
    if isinstance(node, ast.Constant) and type(node.value) is int:
        result = node.value
    elif isinstance(node, ast.UnaryOp):
        operand = _value(node.operand)
        result = None if operand is None else _SIGNS[type(node.op)](operand)
    elif isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Div | ast.Mod) and not right:  # 0, or it may be
            raise ValueError
        result = None if left is None or right is None else _OPERATORS[type(node.op)](left, right)
    else:
        raise ValueError
    if result is not None and abs(result) >= MAX_NUMBER:
        raise ValueError
    return result
