"""The commands `splitveil-edge query`, `splitveil-edge bench` and `splitveil query`, and what the package imports."""

from __future__ import annotations

import ast
import builtins
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import small_bundle
import splitveil
import splitveil_edge
from commands import answer
from splitveil import data
from splitveil_edge import measure
from splitveil_edge.command import main
from stub_server import refuse, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    np.save(folder / "two.npy", images)
    np.save(folder / "large.npy", np.zeros((16, 20, 1), np.uint8))
    return folder, small_bundle.make(folder / "b")


def run(capsys, *tokens):
    """Return the exit code of `splitveil-edge`, its output and its errors."""
    code = 0
    try:
        main([str(token) for token in tokens])
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def test_query_prints_a_table_or_json(made, capsys):
    folder, bundle = made
    with serving(bundle) as stub:
        query = ("query", folder / "b/device", folder / "two.npy", folder / "large.npy", "--url", stub.url)
        code, table, error = run(capsys, *query, "--resize", "bilinear")
        assert (code, error) == (0, "")
        labels = [small_bundle.CLASSES[i] for i in stub.tail(stub.asked[0].wires).argmax(1)]
        code, found, _ = run(capsys, *query, "--resize", "bilinear", "--json")
        logits = stub.tail(stub.asked[1].wires)
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["image", "class", "share"]
    assert [line[1] for line in lines[1:]] == labels
    rows = json.loads(found)
    assert np.allclose([row["logits"] for row in rows], logits)
    assert [Path(row["image"]).name for row in rows] == ["two.npy[0]", "two.npy[1]", "large.npy"]
    assert {row["id"] for row in rows} == {stub.asked[1].about["id"]}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("resize", [(), ("--resize", "bilinear")])
def test_what_a_training_says_of_images_is_said_before_they_are_sent(
    made, capsys, tmp_path, caplog, monkeypatch, resize
):
    """In the same words, so that no device sends the first frame of a clip, taking it for the whole."""
    folder, _ = made
    frames = [Image.new("L", (8, 8), i * 100) for i in range(3)]
    files = [tmp_path / part / "a" / name for part in ("train", "test") for name in ("clip.gif", "pages.tif")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        frames[0].save(file, save_all=True, append_images=frames[1:])
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 63)  # stands for Pillow's 89 million
    data.load(f"folder:root={tmp_path},size=8")
    trained = [line for record in caplog.records if "/train/" in (line := record.getMessage())]
    assert len(trained) == 2
    caplog.clear()

    def send(client, images):
        raise splitveil_edge.UserError(f"{len(caplog.records)} said before {len(images)} are sent")

    monkeypatch.setattr("splitveil_edge.client.Client.classify", send)
    words = ("query", folder / "b/device", *files[:2], "--url", "http://127.0.0.1:9", *resize)
    assert run(capsys, *words)[::2] == (2, "splitveil-edge: 2 said before 2 are sent\n")
    assert [record.getMessage() for record in caplog.records] == trained


def test_bad_input_is_2_and_a_server_that_fails_is_1(made, capsys, tmp_path):
    folder, bundle = made
    with serving(bundle, lambda handler, *_: refuse(handler, 500, "oh")) as stub:
        image = folder / "two.npy"
        for tokens, code, words in [
            ((), 2, "the following arguments are required: query|bench"),
            (("query", folder / "b", image), 2, "required: --url; see splitveil-edge query --help"),
            (("query", tmp_path, image, "--url", stub.url), 2, "is no bundle"),
            (("query", folder / "b", folder / "large.npy", "--url", stub.url), 2, "an image of 20 × 16 pixels"),
            (("query", folder / "b", image, "--url", stub.url, "--token=s"), 2, "a token is never an argument"),
            (("query", folder / "b", image, "--url", stub.url, "--retries", "-1"), 2, "retries -1; expected a whole"),
            (("query", folder / "b", image, "--url", stub.url, "--deadline", "0"), 2, "deadline 0.0; expected seconds"),
            (("query", folder / "b", image, "--url", stub.url), 1, "fails with status 500: oh"),
            (("bench", folder / "b", "--images", "0"), 2, "0 images; expected 1 or more"),
        ]:
            got, out, error = run(capsys, *tokens)
            assert (got, out) == (code, "")
            assert error.startswith("splitveil-edge: ")
            assert words in error
            assert error.count("\n") == 1


def test_bench_prints_what_an_image_costs(made, capsys):
    folder, bundle = made
    with serving(bundle) as stub:
        code, found, _ = run(capsys, "bench", folder / "b", "--images", "5", "--url", stub.url, "--json")
    figures = json.loads(found)
    assert code == 0
    assert set(figures) == set(measure.WORDS)
    assert figures["wire_bytes"] == 4
    assert figures["body_bytes"] == len(stub.asked[0].body)
    assert 0 < figures["answer_p50_ms"] <= figures["answer_p99_ms"]
    assert len(stub.asked) == 6
    code, table, _ = run(capsys, "bench", folder / "b", "--images", "5")
    assert len(table.splitlines()) == 5


def test_splitveil_query_is_the_same(made, tmp_path, monkeypatch):
    folder, bundle = made
    with serving(bundle) as stub:
        tokens = ("query", folder / "b", folder / "two.npy", "--url", stub.url)
        assert answer(*tokens) == (0, "")
        assert len(stub.asked[0].wires) == 2
        code, said = answer("query", folder / "b", tmp_path / "gone.npy", "--url", stub.url)
        assert code == 2
        assert "gone.npy: No such file" in said
    code, said = answer(*tokens, "--retries", "0")
    assert code == 1
    assert said.startswith("splitveil: http://127.0.0.1")
    assert said.count("\n") == 1
    monkeypatch.setitem(sys.modules, "splitveil_edge", None)
    assert answer(*tokens) == (2, "splitveil: query needs the package splitveil_edge; pip install splitveil-edge\n")


def test_an_image_file_without_pillow_is_one_line(made, capsys, tmp_path, monkeypatch):
    folder, _ = made
    (tmp_path / "a.png").touch()
    real = builtins.__import__

    def no_pillow(name, *rest):
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_pillow)
    code, _, error = run(capsys, "query", folder / "b", tmp_path / "a.png", "--url", "http://localhost:1")
    assert code == 2
    assert "a.png needs Pillow (pip install 'splitveil-edge[images]')" in error


def test_it_imports_numpy_and_onnxruntime_only_and_has_the_version_of_splitveil():
    allowed = set(sys.stdlib_module_names) | {"numpy", "onnxruntime", "PIL"}
    found = set()
    for path in (ROOT / "edge/src/splitveil_edge").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).partition(".")[0])
    assert found - allowed == set()
    assert splitveil_edge.__version__ == splitveil.__version__
