"""YAML files of settings, read strictly: what is ambiguous is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer

from ..errors import UserError, shown

# The parser in C, where PyYAML was built with it, reads a file six times as fast. Values are composed in Python either
# way, as the loader looks at every one.
_BASES: tuple[Any, ...] = (Composer, yaml.CSafeLoader) if yaml.__with_libyaml__ else (yaml.SafeLoader,)


def load(path: str | Path) -> dict[str, Any]:
    """Return the plain values of a YAML file.

    Args:
        path: file of settings.

    Raises:
        UserError: no such file, or not a YAML mapping; a key that is given twice, a value that contains itself.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; expected a YAML file of settings") from None
    except _Unclear as error:
        raise UserError(f"{path}, line {_line_number(error)}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also no text, and a number of 5,000 digits
        raise UserError(f"{path} is not YAML: {_reason(error)}; expected lines like 'epochs: 240'") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings; expected lines like 'epochs: 240'")
    return values


class _Unclear(yaml.MarkedYAMLError):
    """YAML whose meaning cannot be what its writer meant."""


class _Loader(*_BASES):
    """A loader that refuses keys given twice, of which one would silently count, and values that contain themselves.

    Reads 1e-3 as a number, as YAML 1.2 does.
    """

    def __init__(self, stream: str):
        _BASES[-1].__init__(self, stream)
        Composer.__init__(self)
        self._open: list[str | None] = []
        """Anchors of the values that the loader is reading."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        try:
            value = super().construct_yaml_int(node)
        except ValueError:  # Python reads no more than thousands of digits
            value = None
        if value is None or value.bit_length() > 300:
            problem = f"{shown(str(node.value))} is larger than any number that is counted; write a smaller one"
            raise _Unclear(problem=problem, problem_mark=node.start_mark)
        return value

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._open:
            problem = f"&{event.anchor} contains itself; write its values out"
            raise _Unclear(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def compose_sequence_node(self, anchor: Any) -> yaml.Node:
        self._open.append(anchor)
        node = super().compose_sequence_node(anchor)
        self._open.pop()
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.Node:
        self._open.append(anchor)
        node = super().compose_mapping_node(anchor)
        self._open.pop()
        seen: set[tuple[str, Any]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):  # which cannot be a key, as is said later
                continue
            if (key.tag, key.value) in seen:
                problem = f"{key.value} is given twice, and only one would count; give it once"
                raise _Unclear(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _line_number(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 1


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError) or "nesting depth" in str(error):  # the words of the parser in C
        return "its values are nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError):
        return f"line {_line_number(error)}: {error.problem or error.context}"
    return str(error).splitlines()[0]
