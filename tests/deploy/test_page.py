"""The browser page: what is in it, what its policy allows, and what is refused."""

import base64
import gzip
import hashlib
import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import cast

import pytest

import small_bundle
from commands import answer
from splitveil.deploy import bundle, page
from splitveil.errors import UserError

ENGINE = (
    "/*!\n * ONNX Runtime Web v1.30.0\n */\nvar a={b:1},q=2;"
    "export{a as InferenceSession,q as env,q as default};\n//# sourceMappingURL=x.map\n"
)
EVIL = "</script><script>alert(1)</script><!--"


class Elements(HTMLParser):
    """Every element with its attributes, and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self._open = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id", dict(attrs).get("type", tag)) if tag in ("script", "style") else None

    def handle_data(self, data):
        if self._open:
            self.texts[self._open] = self.texts.get(self._open, "") + data

    def handle_endtag(self, tag):
        self._open = None


@pytest.fixture
def made(tmp_path):
    return small_bundle.make(tmp_path / "bundle")


@pytest.fixture
def engine():
    return page.Runtime("1.30.0", ENGINE, b"\0asm" * 10)


@pytest.fixture
def dist(tmp_path, monkeypatch, engine):
    """A folder dist that passes for a tested release."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    files = {page.SCRIPT: engine.script.encode(), page.WASM: engine.wasm}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(page, "RUNTIMES", {"1.30.0": sums})
    return folder


def changed(made, **parts):
    return bundle.Bundle(cast("bundle.Wire", {**made.wire, **parts}), made.models)


def unpacked(text):
    return gzip.decompress(base64.b85decode(text.strip().replace(".", "<")))


def test_the_page_holds_what_it_runs(made, engine):
    found = Elements(page.page(made, engine, b"attack"))
    assert unpacked(found.texts["encoder"]) == made.models["device"]
    assert unpacked(found.texts["wasm"]) == engine.wasm
    assert base64.b85decode(found.texts["wasm"].replace(".", "<"))[4:8] == bytes(4)  # no date in the gzip header
    assert unpacked(found.texts["attack"]) == b"attack"
    about = json.loads(found.texts["about"])
    assert about["model"] == made.model_name
    assert about["draws"] == made.wire["draws"]
    assert (about["bytes"], about["values"], about["outputs"]) == (4, 4, 3)


def test_the_page_loads_nothing(made, engine):
    text = page.page(made, engine, b"attack", [page.Example("cat", b"png")])
    assert "http://" not in text
    assert "https://" not in text
    links = [(tag, name, value) for tag, held in Elements(text).found for name, value in held.items()]
    assert [link for link in links if link[1] in ("src", "href", "action", "srcset")] == [("link", "href", "data:,")]
    assert not [name for _, name, _ in links if name == "style" or name.startswith("on")]
    assert "sourceMappingURL" not in text


def test_the_policy_lets_this_script_and_style_run_and_nothing_else(made, engine):
    found = Elements(page.page(made, engine))
    (policy,) = [held["content"] for tag, held in found.found if held.get("http-equiv") == "Content-Security-Policy"]
    rules = {name: set(values) for name, *values in (rule.split() for rule in policy.split(";"))}

    def allowed(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules.pop("script-src") == {allowed(found.texts["module"]), "'wasm-unsafe-eval'"}
    assert rules.pop("style-src") == {allowed(found.texts["style"])}
    assert rules.pop("connect-src") == {"'self'"}
    assert rules.pop("img-src") == {"data:"}
    assert rules == {name: {"'none'"} for name in ("default-src", "base-uri", "form-action")}


def test_the_runtimes_exports_become_one_name_before_our_script(made, engine):
    script = Elements(page.page(made, engine)).texts["module"]
    assert "const ort={InferenceSession:a,env:q};\n\n{\n" in script
    assert "export{" not in script
    with pytest.raises(UserError, match="0 lists of exports"):
        page.page(made, replace(engine, script="var a"))
    with pytest.raises(UserError, match="cannot stand in a page"):
        page.page(made, replace(engine, script=ENGINE.replace("b:1", "b:'</SCRIPT>'")))


def test_names_cannot_leave_their_places(made, engine):
    evil = changed(made, classes=[EVIL, "b", "c"])
    found = Elements(page.page(evil, engine, pictures=[page.Example(EVIL, b"png")]))
    about = json.loads(found.texts["about"])
    assert about["classes"][0] == about["examples"][0]["name"] == EVIL
    assert [tag for tag, _ in found.found].count("script") == 4


def test_the_same_bundle_makes_the_same_bytes(dist, tmp_path, made):
    for name in ("one.html", "two.html"):
        assert answer("page", tmp_path / "bundle", "--runtime", dist, "--out", tmp_path / name) == (0, "")
    content = (tmp_path / "one.html").read_bytes()
    assert content == (tmp_path / "two.html").read_bytes()
    assert str(tmp_path).encode() not in content


def test_the_device_alone_and_the_package_alone_are_enough(dist, tmp_path, made):
    whole = page.of(tmp_path / "bundle", dist)[1]
    assert page.of(tmp_path / "bundle" / "device", dist.parent)[1] == whole


def test_the_attack_of_this_export_is_shown_and_no_other(dist, tmp_path, made):
    assert "This bundle holds no attack" in page.of(tmp_path / "bundle", dist)[1]
    small_bundle.make(tmp_path / "attacked", attack=b"linear")
    text = page.of(tmp_path / "attacked", dist)[1]
    assert "This bundle holds no attack" not in text
    assert unpacked(Elements(text).texts["attack"]) == b"linear"
    for folder in ("bundle", "attacked"):
        (tmp_path / folder / "attack").mkdir(exist_ok=True)
        (tmp_path / folder / bundle.PICTURE).write_bytes(b"of another export")
        with pytest.raises(UserError, match=r"linear.onnx is not the attack of this export .*; export the run again"):
            page.of(tmp_path / folder, dist)


def test_the_page_says_what_the_export_has_measured(made, engine):
    text = page.page(made, engine)
    assert "the right class for 90.0% [80.0%, 100.0%] of 100 test images" in text
    assert "the linear attack is off" not in text
    score = {"mean": 0.04, "ci95": [0.01, 0.09]}
    linear = {"images": 50, "float32": score, "coded": score, "difference": score}
    text = page.page(changed(made, measured={**made.wire["measured"], "linear_mse": linear}), engine)
    assert "On 50 test images the linear attack is off by 51.0 [25.5, 76.5] of 255 gray levels" in text


def test_a_wire_without_noise_is_not_said_to_have_any(made, engine):
    text = page.page(changed(made, draws=[]), engine)
    assert "Nothing on this wire is random" in text
    assert "fresh noise" not in text.partition('<script type="module">')[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / page.WASM).unlink(), "has no ort-wasm-simd-threaded.wasm"),
        (lambda folder: (folder / page.WASM).write_bytes(b"other"), "holds changed files of onnxruntime-web 1.30.0"),
        (
            lambda folder: (folder / page.SCRIPT).write_text(ENGINE.replace("1.30", "1.29"), "utf-8"),
            "holds onnxruntime-web 1.29.0; the page takes tested files alone (1.30.0)",
        ),
        (lambda folder: (folder / page.SCRIPT).write_bytes(b"\xff"), "holds onnxruntime-web unknown"),
    ],
)
def test_another_runtime_is_refused(dist, tmp_path, made, change, said):
    change(dist)
    code, error = answer("page", tmp_path / "bundle", "--runtime", dist, "--out", tmp_path / "page.html")
    assert (code, error.count("\n")) == (2, 1)
    assert said in error
    assert "npm pack onnxruntime-web@1.30.0" in error
    assert not (tmp_path / "page.html").exists()


def test_every_tested_release_has_both_files():
    assert all(set(sums) == {page.SCRIPT, page.WASM} for sums in page.RUNTIMES.values())
    assert all(len(digest) == 64 for sums in page.RUNTIMES.values() for digest in sums.values())


def test_a_bundle_that_no_page_can_show_is_refused(dist, tmp_path, made, engine):
    with pytest.raises(UserError, match=r"runs device/encoder\.onnx"):
        page.of(tmp_path / "bundle" / "cloud", dist)
    image = {"dtype": "UINT8", "shape": [8, 8, 2]}
    with pytest.raises(UserError, match="a browser shows 1 or 3 channels"):
        page.page(changed(made, image=image), engine)


def test_examples_are_few_and_small(tmp_path):
    assert page.examples(None) == []
    with pytest.raises(UserError, match="is no folder"):
        page.examples(tmp_path / "none")
    with pytest.raises(UserError, match="holds 0 files; expected 1 to 12"):
        page.examples(tmp_path)
    for name in ("owl.png", "cat.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"png")
    assert page.examples(tmp_path) == [page.Example("cat", b"png"), page.Example("owl", b"png")]
    (tmp_path / "large.png").write_bytes(bytes(page.EXAMPLE_BYTES + 1))
    with pytest.raises(UserError, match="200,001 bytes; expected at most 200,000"):
        page.examples(tmp_path)
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(b"png")
    with pytest.raises(UserError, match="holds 13 files"):
        page.examples(tmp_path)


@pytest.mark.parametrize(
    ("shape", "codec", "length", "tiles", "size"),
    [
        ([8, 8, 8], "uint4", 256, page.Tiles(8, 8, 8, 4), (35, 17)),
        ([3, 3, 3], "uint4", 14, page.Tiles(3, 3, 3, 3), (11, 3)),
        ([7, 2, 2], "uint8", 28, page.Tiles(7, 2, 2, 3), (8, 8)),
        ([100], "uint8", 100, page.Tiles(1, 10, 10, 1), (10, 10)),
        ([5], "uint2", 2, page.Tiles(1, 2, 3, 1), (3, 2)),
        ([9], "float32", 7, page.Tiles(1, 3, 3, 1), (3, 3)),
    ],
)
def test_the_wire_is_painted_in_channels(made, shape, codec, length, tiles, size):
    draws = [{"name": "n0", "kind": "normal", "shape": shape}]
    coded = {**made.wire["wire"], "codec": codec, "shape": [length]}
    assert page.tiles(changed(made, draws=draws, wire=coded).wire) == tiles
    assert tiles.size == size
