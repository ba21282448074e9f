"""The documentation site's own code, without its generator: `make docs` builds all of it."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import griffe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from website import (
    check,
    commands,
    docstrings,
    formats,
    links,
    measured,
    navigation,
    notebooks,
    reference,
    staging,
    tables,
)

from splitveil.storage.reading import ANSWERS

ROOT = Path(__file__).parents[2]
OWN = [ROOT / name for name in ("records/README.md", "edge/README.md", ".github/pull_request_template.md")]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *OWN,
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "findings").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_of_a_page_is_dead(page):
    assert links.dead(page, ROOT) == []


def test_a_dead_link_is_found_with_its_line(tmp_path):
    page = tmp_path / "a.md"
    page.write_text(
        "# One head\n\n[x](#one-head) [y](b.md)\n```\n[z](c.md)\n```\n[w](a.md#two) `[v](d.md)`\n[u\nu](../..)\n"
    )
    assert links.dead(page, tmp_path) == [
        "a.md:3: b.md: there is no such file",
        "a.md:7: a.md#two: no heading of that page has this anchor",
        "a.md:9: ../..: there is no such file",
    ]


def test_every_page_is_in_the_navigation():
    folders = {path.parent.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    patterns = [pattern for section in navigation.SECTIONS.values() for pattern in section]
    sources = [path for path in (ROOT / "docs").rglob("*") if path.suffix == ".md" or notebooks.is_notebook(path)]
    places = [Path(staging.place(path.relative_to(ROOT))) for path in sources]
    assert [place for place in places if not any(place.match(pattern) for pattern in patterns)] == []
    assert folders


def test_a_page_in_no_section_is_refused(tmp_path):
    (tmp_path / "lost.md").write_text("# Lost\n")
    with pytest.raises(staging.SiteError, match=r"in no section of website/navigation.py: lost\.md"):
        navigation.entries(tmp_path, {})


def test_links_of_a_page_lead_to_where_the_site_has_their_targets():
    linked: set[Path] = set()
    moved = staging._moved(Path("docs/harden.md"), linked)
    assert moved("../benchmarks/hardening.json") == "results/hardening.md"
    assert moved("../CONTRIBUTING.md#a-defense") == "project/contributing.md#a-defense"
    assert moved("../benchmarks/hardening.py") == "files/benchmarks/hardening.py.md"
    assert moved("https://example.org/x.md") == "https://example.org/x.md"
    assert linked == {Path("benchmarks/hardening.py")}


def test_every_command_of_the_pages_has_a_page(tmp_path):
    pages = {path for _, path in commands.write(tmp_path)}
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")}
    assert pages == written
    called = set()
    for page in (ROOT / "docs").glob("*.md"):
        blocks = commands._code(page.read_text(encoding="utf-8"))
        called |= set(re.findall(r"^splitveil(-edge)? ([a-z]+(?:-[a-z]+)*)\b", blocks, re.MULTILINE))
    assert {("", "train"), ("-edge", "query")} <= called
    names = {f"reference/commands/{'edge-' if program else ''}{name}.md" for program, name in called}
    assert names <= pages
    option = re.compile(r"--[a-z][a-z0-9-]+\w")
    for name in commands.names():
        page = (tmp_path / f"reference/commands/{name}.md").read_text(encoding="utf-8")
        assert set(option.findall(commands.help_of(name))) <= set(option.findall(page))
    train = (tmp_path / "reference/commands/train.md").read_text(encoding="utf-8")
    assert "\nsplitveil train --out PATH [OPTIONS]\n" in train
    assert "[The command line](../../command-line.md)" in train


def test_a_public_object_without_a_docstring_is_named(monkeypatch, tmp_path):
    for package, code in (
        ("splitveil", 'class A:\n    """A."""\n    def told(self):\n        """Say."""\n\n    def bare(self): ...\n'),
        ("splitveil_edge", "class B: ...\n\nclass Of(B):\n    def _own(self): ...\n"),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(code)
    room = reference.Room("x", "X", "About.", ("splitveil.A", "splitveil_edge.Of"))
    monkeypatch.setattr(reference, "ROOMS", (room,))
    loader = griffe.GriffeLoader(search_paths=[tmp_path])
    assert reference.undocumented(loader.load("splitveil")) == ["splitveil.A.bare"]
    assert reference.undocumented(loader.load("splitveil_edge")) == ["splitveil_edge.Of"]


@pytest.mark.parametrize("room", reference.ROOMS, ids=lambda room: room.page)
def test_links_above_the_reference_lead_somewhere(room):
    page = ROOT / "docs/reference/python/page.md"  # where the site has it
    for _, target in links.targets(room.about):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve()
        assert found.is_file()
        assert not anchor or anchor in links.anchors(found.read_text(encoding="utf-8"))


def test_every_plugin_is_in_the_reference():
    from splitveil.registry import Registry

    for kind in ("defenses", "attacks", "bounds", "data", "zoo"):
        shown = set(reference.plugins(kind).values())
        registered = {f"{one.__module__}.{one.__qualname__}" for one in map(Registry(kind).get, Registry(kind).names())}
        assert shown == registered


def test_examples_of_docstrings_become_code():
    text = "Add.\n\n>>> 1 + 1\n2\n\nExample:\n    >>> 2 + 2\n    4\n"
    assert docstrings.with_code(text) == "Add.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nExamples:\n    >>> 2 + 2\n    4"


@pytest.mark.parametrize("one", [one for one in formats.FORMATS if one.model], ids=lambda one: one.page)
def test_a_format_has_a_schema_and_all_its_keys_on_the_page(one):
    schema = formats.schema_of(one)
    page = formats.page(one, schema)
    for inside in (schema, *schema.get("$defs", {}).values()):
        assert all(f"| `{key}` |" in page for key in inside.get("properties", ()))


INTERNAL = {"ANY", "_PLAN", "NOTED"}
"""Types of files that only the code that wrote them reads: notes of a training, a stopped attack, decoded images."""


def test_every_file_that_a_typed_model_reads_is_listed_with_its_schema():
    known = [getattr(import_module(one.model.partition(":")[0]), one.model.partition(":")[2])
             for one in formats.FORMATS if one.model]  # fmt: skip
    read = 0
    for path in sorted((ROOT / "src/splitveil").rglob("*.py")):
        for name in set(re.findall(r"read_json\([^,]+, (?:reading\.)?(_?[A-Z]+),", path.read_text("utf-8"))) - INTERNAL:
            module = import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))
            kind = getattr(module, name, None) or getattr(module.reading, name)
            read += 1
            assert any(kind is one for one in known), f"{path.name} reads a {name}, which website/formats.py lacks"
    assert read > 10


def test_every_table_of_a_run_is_listed():
    listed = {one.file for one in formats.FORMATS}
    tables_of_attacks = {f"RUN/attacks/NAME/{name}" for name in ("per_image.csv", "held_out.csv")}
    assert tables_of_attacks | {f"RUN/{name}" for name in ANSWERS.values()} <= listed


def test_the_schema_of_an_audit_is_the_published_one():
    (one,) = (one for one in formats.FORMATS if one.file.endswith("audit.json"))
    published = json.loads((ROOT / "docs/audit.schema.json").read_text(encoding="utf-8"))
    assert formats.schema_of(one)["properties"] == published["properties"]


LEAF = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | st.text(max_size=8)
KEY = st.text("abcxyz", min_size=1, max_size=4)
INTERVAL = st.tuples(*[st.floats(-10, 10)] * 3).map(lambda x: {"mean": x[0], "ci95": [x[1], x[2]]})
RECORD = st.dictionaries(
    KEY,
    st.recursive(LEAF | INTERVAL, lambda inside: st.dictionaries(KEY, inside, min_size=1, max_size=4), max_leaves=12),
)


def leaves(value: object) -> list[object]:
    if isinstance(value, dict) and not {"mean", "ci95"} <= value.keys():
        return [leaf for inside in value.values() for leaf in leaves(inside)]
    return [value]


@settings(max_examples=40, deadline=None)
@given(RECORD)
def test_every_value_of_a_record_is_on_its_page(record):
    text = tables.shown(record)
    assert all(tables.cell(leaf) in text for leaf in leaves(record))


@pytest.mark.parametrize("path", measured.measurements(), ids=lambda path: path.stem)
def test_a_measurement_has_a_command(path):
    assert measured.command_of(path)


def test_every_claim_is_shown_with_its_figure():
    page = measured.claims()
    for path in (ROOT / "records").glob("*.json"):
        record = measured.load(path)
        assert f"## {path.stem}" in page
        if "ci95" in record["figure"]:
            assert measured.figure(record["figure"]).partition(" [")[0] in record["quote"]


def test_the_check_of_the_built_site(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#x">1</a><a href=c.html>2</a><a id="y" href="#y">3</a><a href="#z">4</a>'
    )
    (tmp_path / "b.html").write_text(
        '<script src="https://cdn.example.org/x.js"></script><a href="https://example.org">5</a>'
    )
    assert check.problems(tmp_path) == [
        "a.html: #z has no such anchor",
        "a.html: b.html#x has no such anchor",
        "a.html: c.html does not exist",
        'b.html loads from the network: <script src="https://cdn.example.org/x.js"',
    ]


def test_an_executed_tutorial_replaces_its_source(tmp_path):
    folder = tmp_path / "tutorials"
    folder.mkdir()
    source = folder / "one.py"
    source.write_text("# %% [markdown]\n# # One\n\n# %%\nprint(1)\n")
    assert notebooks.as_page(source, tmp_path / "one.md") == "# One\n\n```python\nprint(1)\n```\n"
    source.with_suffix(".md").write_text("# One, executed\n")
    assert notebooks.as_page(source, tmp_path / "one.md") == "# One, executed\n"
