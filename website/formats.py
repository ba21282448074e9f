"""Pages of file formats: each with its JSON Schema, where a typed model reads it, made from that model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from docstring_parser import DocstringStyle, parse
from pydantic import TypeAdapter

from . import tables
from .links import slug


@dataclass(frozen=True)
class Format:
    """A file that SplitVeil writes and reads back.

    Attributes:
        file: its place, with capital letters for what differs.
        about: what it holds.
        written_by: commands or calls.
        read_by: commands or calls.
        model: module and name of the typed model that reads it; None where there is none.
    """

    file: str
    about: str
    written_by: str
    read_by: str
    model: str | None = None

    @property
    def page(self) -> str:
        """Return the name of its page, and of its schema."""
        return re.sub(r"[^a-z0-9]+", "-", self.file.lower()).strip("-")


FORMATS = (
    Format(
        "RUN/config.yaml",
        "All settings of a training.",
        "`train`, `harden`, `splitveil.save`",
        "`train --config`, every command that opens a run",
        "splitveil.config:TrainConfig",
    ),
    Format(
        "RUN/summary.json",
        "What a training came to; the last file that is written, so that it marks a run as finished.",
        "`train`, `tail`, `harden`, `splitveil.save`",
        "every command that opens a run",
        "splitveil.storage.reading:RUN",
    ),
    Format(
        "RUN/metrics.jsonl",
        "One line for each epoch.",
        "`train`",
        "`train --resume`, `diagnose`",
        "splitveil.storage.reading:EPOCH",
    ),
    Format(
        "RUN/attacks/NAME/summary.json",
        "The scores of one attack.",
        "`attack`, `splitveil.save`",
        "`attack --suite`, `compare`, `splitveil.load`",
        "splitveil.storage.reading:ATTACK",
    ),
    Format(
        "RUN/attacks/suite-NAME.json",
        "The combined scores of a suite; under another protocol than the run's own it is `suite-NAME@PROTOCOL.json`.",
        "`attack --suite`, `audit`, `splitveil.save`",
        "`splitveil.load`, `splitveil.save`, programs of your own",
        "splitveil.saved_reports:_KIND",
    ),
    Format(
        "RUN/model.json",
        "How the halves of a network of your own are made again from it.",
        "`splitveil.save`",
        "`splitveil.load`",
        "splitveil.saved:_KIND",
    ),
    Format(
        "RUN/hardening.json",
        "What was tried while noise was put on a trained network.",
        "`harden`",
        "`harden --resume`",
        "splitveil.hardening.run:_KEPT",
    ),
    Format(
        "RUN/audit/audit.json",
        "The privacy card as data.",
        "`audit`",
        "`export`, programs of your own",
        "splitveil.audit.record:AUDIT",
    ),
    Format(
        "RUN/audit/bounds/NAME.json",
        "What one bound said, or why it said nothing.",
        "`audit`",
        "`audit`, `audit --against`",
        "splitveil.audit.bounded:_KEPT",
    ),
    Format(
        "policy.yaml",
        "Thresholds of the verdict, and requirements that a model must meet.",
        "you",
        "`audit --policy`",
        "splitveil.audit.policy:Policy",
    ),
    Format(
        "OUT/cuts.json",
        "What was measured at each cut of a network.",
        "`audit --layers`",
        "`audit --layers --resume`",
        "splitveil.audit.cuts:_RECORD",
    ),
    Format(
        "OUT/diagnosis.json",
        "Logged leakage and attack error of each epoch.",
        "`diagnose`",
        "`diagnose`",
        "splitveil.audit.diagnosis:_KEPT",
    ),
    Format(
        "BUNDLE/wire.json",
        "What device and cloud must know of the wire, in both parts of a bundle.",
        "`export`",
        "`serve`, `page`, `query`, `splitveil-edge`",
        "splitveil.deploy.bundle:KIND",
    ),
    Format(
        "GRID.yaml",
        "A grid of runs.",
        "you",
        "`bench`",
        "splitveil.bench.grid_file:GridFile",
    ),
    Format(
        "BENCH/cells/ID/record.json",
        "A finished cell of a grid.",
        "`bench`",
        "`report`, `compare`",
        "splitveil.results.record_types:RECORDS",
    ),
    Format(
        "BENCH/failed/ID.json",
        "A cell that was given up.",
        "`bench`",
        "`report`",
        "splitveil.results.record_types:FAILURES",
    ),
    Format(
        "BENCH/grids/NAME.json",
        "A grid as it was begun.",
        "`bench`",
        "`report`",
        "splitveil.results.record_types:GRIDS",
    ),
    Format(
        "RUN/model.safetensors",
        "All weights and buffers of the model, in the safetensors format.",
        "`train`, `harden`, `splitveil.save`",
        "every command that opens a run",
    ),
    Format(
        "RUN/test.csv",
        "The class of each test image and the network's answer, one row each.",
        "`train`, `harden`",
        "`compare`, `report`",
    ),
    Format(
        "RUN/test_retrained.csv",
        "The same answers of a tail that was trained anew.",
        "`tail`, `bench`",
        "`compare`, `report`",
    ),
    Format(
        "RUN/attacks/NAME/reconstructions.npz",
        "Arrays `originals` and `reconstructions`, uint8 (N, 3, H, W), and their `places` among the attacked images.",
        "`attack`, `splitveil.save`",
        "`report`, `splitveil.load`",
    ),
    Format(
        "RUN/attacks/NAME/per_image.csv",
        "The metrics of one attack on each attacked image, one row each.",
        "`attack`, `audit`, `bench`, `splitveil.save`",
        "`attack --suite`, `audit`, `bench`, `compare`, `report`, `splitveil.load`",
    ),
    Format(
        "RUN/attacks/NAME/held_out.csv",
        "The error of one attack on each image that the attacker has kept for judging it, one row each.",
        "`attack`, `audit`, `bench`, `splitveil.save`",
        "`attack --suite`, `audit`, `bench`, `compare`, `report`, `splitveil.load`",
    ),
    Format(
        "BUNDLE/device/encoder.onnx, BUNDLE/cloud/tail.onnx",
        "The two halves, in the ONNX format.",
        "`export`",
        "`serve`, `page`, `splitveil-edge`",
    ),
    Format(
        "BUNDLE/device/SHA256SUMS, BUNDLE/cloud/SHA256SUMS",
        "Checksums, in the format of `sha256sum`.",
        "`export`",
        "`serve`, `splitveil-edge`, `sha256sum --check`",
    ),
    Format(
        "TOKENS",
        "One line for each client: its name, a space, the SHA-256 of its token.",
        "`token --file`",
        "`serve --token-file`",
    ),
)


def write(out: Path) -> list[tuple[str, str]]:
    """Write a page for each format that a typed model reads, its schema, and an overview of all.

    Args:
        out: folder of the site's sources.

    Returns:
        Title and path of each page, for the navigation.
    """
    folder = out / "reference/files"
    folder.mkdir(parents=True, exist_ok=True)
    pages, rows = [], []
    for one in FORMATS:
        name = ", ".join(f"`{part}`" for part in one.file.split(", "))
        if one.model:
            schema = schema_of(one)
            (folder / f"{one.page}.schema.json").write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
            (folder / f"{one.page}.md").write_text(page(one, schema), encoding="utf-8")
            pages.append((one.file, f"reference/files/{one.page}.md"))
            name = f"[{name}](files/{one.page}.md)"
        rows.append([name, one.about, one.written_by, one.read_by])
    text = (
        "# File formats\n\nFiles that are written and read back. Where a typed model reads a file, its page and its\n"
        "JSON Schema are made from that model. The schemas say what a reader demands: a file of another version\n"
        "may hold more, unless its schema forbids it. A file without a link here has no schema: it is of another\n"
        "format than JSON or YAML, or nothing depends on its layout.\n\n"
    )
    text += tables.table(["file", "what it holds", "written by", "read by"], rows) + "\n"
    (out / "reference/files.md").write_text(text, encoding="utf-8")
    return [("Overview", "reference/files.md"), *pages]


def schema_of(one: Format) -> dict[str, Any]:
    """Return the JSON Schema of a format that has a model.

    Args:
        one: the format.
    """
    module, _, name = str(one.model).partition(":")
    kind = getattr(import_module(module), name)
    adapter: TypeAdapter[Any] = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    schema = adapter.json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": one.file}


def page(one: Format, schema: Mapping[str, Any]) -> str:
    """Return the page of a format: a table of its keys, and one for each kind of object inside.

    Args:
        one: the format.
        schema: its JSON Schema.
    """
    text = [f"# `{one.file}`", f"{one.about} Written by {one.written_by}; read by {one.read_by}."]
    text.append(f"[JSON Schema]({one.page}.schema.json), made from `{str(one.model).replace(':', '.')}`.")
    text += _object(schema)
    for name, inside in sorted(schema.get("$defs", {}).items()):
        text += [f"## {name}", *_object(inside)]
    return "\n\n".join(text) + "\n"


def _object(schema: Mapping[str, Any]) -> list[str]:
    """Return the description of an object and the table of its keys."""
    documented = parse(schema.get("description", ""), style=DocstringStyle.GOOGLE)
    about = [documented.short_description or "", documented.long_description or ""]
    about = [part for part in about if part.strip("`.") and not re.fullmatch(r"`+[^`]+`+\.?", part)]
    text = [tables.escaped(part).replace("&#96;", "`") for part in about]
    words = {part.arg_name: part.description or "" for part in documented.params}
    if "properties" not in schema:
        return [*text, f"It is {type_of(schema)}."]
    needed = set(schema.get("required", ()))
    rows = []
    for key, value in schema["properties"].items():
        says = tables.escaped(value.get("description") or words.get(key, "")).replace("&#96;", "`")
        default = value.get("default")
        must = "yes" if key in needed else "no" if default in (None, [], {}) else f"no: `{json.dumps(default)}`"
        rows.append([f"`{key}`", type_of(value), must, says])
    columns = ["key", "type", "needed", "what it is"]
    if not any(row[3] for row in rows):
        columns, rows = columns[:3], [row[:3] for row in rows]
    closed = [] if schema.get("additionalProperties", True) else ["No other keys."]
    return [*text, tables.table(columns, rows), *closed]


def type_of(schema: Mapping[str, Any]) -> str:
    """Return a schema's type in words.

    Args:
        schema: of one value.

    >>> type_of({"anyOf": [{"type": "array", "items": {"type": "integer", "minimum": 0}}, {"type": "null"}]})
    'list of whole number ≥ 0, or null'
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{slug(name)})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return ", or ".join(dict.fromkeys(type_of(one) for one in choices))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of {type_of(schema.get('items', {}))}"
        case "object":
            inside = schema.get("additionalProperties")
            return f"mapping of {type_of(inside)}" if isinstance(inside, Mapping) and inside else "mapping"
        case "integer" | "number" as kind:
            limits = (("minimum", "≥"), ("exclusiveMinimum", "\\>"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
            ends = [f"{sign} {schema[key]}" for key, sign in limits if key in schema and abs(schema[key]) < 2**53]
            return " ".join(("whole number" if kind == "integer" else "number", *ends))
        case "string":
            return f"text like `{schema['pattern'].replace('|', chr(92) + '|')}`" if "pattern" in schema else "text"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
    return "any value"
