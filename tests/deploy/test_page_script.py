"""The page's own script, run by node: pixels, random numbers, requests and answers."""

import base64
import gzip
import json
import math
import shutil
import subprocess
from importlib import resources

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from scipy import stats

from splitveil.defenses._codec import Grid
from splitveil.deploy import page

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")
FOLDER = resources.files("splitveil.deploy") / "templates"
SCRIPT = "".join((FOLDER / name).read_text("utf-8") for name in page.PARTS[:3])
TOOLS = """
const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
const text = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const given = (...words) => (count) => Uint32Array.from({ length: count }, () => words.shift());
"""
ABOUT = {"model": "tiny-0123456789ab", "output": "logits", "wire": {"dtype": "UINT8", "shape": [4]}}


def node(body, **given):
    """Return what a function's body returns, with the script's functions and these values."""
    values = "".join(f"const {name} = {json.dumps(value)};" for name, value in given.items())
    program = f"{SCRIPT}{TOOLS}(async () => {{{values}{body}}})().then((r) => console.log(JSON.stringify(r)))"
    done = subprocess.run([str(NODE), "-"], input=program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def coded(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def decoded(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def test_pixels_are_those_of_training_to_the_last_bit():
    rng = np.random.default_rng(0)
    sizes = [(320, 200, 32, 32), (33, 34, 32, 32), (32, 32, 32, 32), (5, 7, 32, 32), (64, 9, 8, 12), (40, 48, 32, 32)]
    if int(PIL.__version__.partition(".")[0]) >= 13:  # before, the columns of a tall image came second
        sizes += [(33, 47, 32, 32), (40, 49, 32, 32), (20, 49, 16, 40), (8, 33, 32, 32), (1, 300, 3, 3)]
    images = [rng.integers(0, 256, (high, wide, 4), dtype=np.uint8) for wide, high, _, _ in sizes]
    found = node(
        "return all.map(([rgba, ...rest]) => [3, 1].map((channels) => "
        "text(asTrained(bytes(rgba), rest[0], rest[1], [rest[3], rest[2], channels]))));",
        all=[[coded(image), *size] for image, size in zip(images, sizes, strict=True)],
    )
    for image, (_, _, width, height), (color, gray) in zip(images, sizes, found, strict=True):
        expected = Image.fromarray(image[:, :, :3]).resize((width, height), Image.Resampling.BILINEAR)
        assert np.array_equal(decoded(color, np.uint8), np.asarray(expected).ravel())
        assert np.array_equal(decoded(gray, np.uint8), np.asarray(expected.convert("L")).ravel())


def bits53(words):
    first, second = words.reshape(-1, 2).astype(np.uint64).T
    return ((first >> 5) * 2**26 + (second >> 6)).astype(np.float64)


def test_numbers_are_the_formulas_of_the_systems_words():
    words = np.random.default_rng(1).integers(0, 2**32, 40, dtype=np.uint32)
    found = node(
        "return [normals, uniforms, exponentials].map((numbers) => text(numbers(9, given(...words))));",
        words=words.tolist(),
    )
    normal, uniform, exponential = (decoded(text, np.float32) for text in found)
    radius, angle = bits53(words[:20]).reshape(-1, 2).T / 2**53
    radius, angle = np.sqrt(-2 * np.log(radius + 2**-53)), 2 * np.pi * angle
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()[:9]
    np.testing.assert_allclose(normal, expected, rtol=1e-6)
    assert np.array_equal(uniform, ((words[:9] >> 8) / 2**24).astype(np.float32))
    np.testing.assert_allclose(exponential, -np.log((bits53(words[:18]) // 2 + 0.5) / 2**52), rtol=1e-6)


def test_no_word_makes_a_number_infinite_or_an_exponential_zero():
    low, high = [0] * 4, [2**32 - 1] * 4
    found = node(
        "return [low, high].map((w) => "
        "[...normals(2, given(...w)), ...uniforms(1, given(...w)), ...exponentials(1, given(...w))]);",
        low=low,
        high=high,
    )
    assert np.isfinite(found).all()
    assert [row[2] for row in found] == [0.0, 1 - 2**-24]
    assert found[0][0] == pytest.approx(math.sqrt(-2 * math.log(2**-53)))
    assert 0 < found[1][3] < found[0][3] < 37


def test_whole_numbers_are_drawn_again_where_a_rest_would_favor_small_ones():
    top = [2**32 - 1] * 2  # 2⁵³ − 1, which is no multiple's last number for 2⁵³ − 1 and for 10
    found = node(
        "return [integers(1, 2 ** 53 - 1, given(...top, 0, 64 * 5)), integers(1, 10, given(...top, 0, 64 * 17)), "
        "integers(1, 2, given(...top)), integers(1, 1, given(...top))].map(([n]) => Number(n));",
        top=top,
    )
    assert found == [5, 7, 1, 0]


def test_fresh_numbers_have_their_laws_and_do_not_repeat():
    draws = [{"kind": kind, "shape": [100, 200]} for kind in ("normal", "uniform", "exponential")]
    draws.append({"kind": "integer", "shape": [100, 200], "high": 7})
    found = node(
        "return draws.map((draw) => [0, 1].map(() => text(Float32Array.from(fresh(draw), Number))));",
        draws=draws,
    )
    laws = [stats.norm, stats.uniform, stats.expon]
    for (one, other), law in zip(found, laws, strict=False):
        one, other = decoded(one, np.float32), decoded(other, np.float32)
        assert stats.kstest(one, law.cdf).pvalue > 1e-6
        assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.04
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.04
    counts = np.bincount(decoded(found[3][0], np.float32).astype(int), minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-6


def test_without_noise_every_number_is_the_middle_of_its_law():
    kinds = ("normal", "uniform", "exponential")
    draws = [*({"kind": kind, "shape": [2]} for kind in kinds), {"kind": "integer", "shape": [2], "high": 7}]
    found = node("return draws.map((draw) => Array.from(still(draw), Number));", draws=draws)
    assert found == [[0, 0], [0.5, 0.5], [pytest.approx(math.log(2))] * 2, [3, 3]]


def test_a_request_has_the_binary_extension():
    found = node(
        'const wire = Uint8Array.of(1, 0, 255, 10); const one = requestOf(about, wire, ""); '
        'return { ...one, body: text(one.body), token: requestOf(about, wire, "secret").headers.Authorization };',
        about=ABOUT,
    )
    body = base64.b64decode(found["body"])
    assert found["address"] == "/v2/models/tiny-0123456789ab/infer"
    assert found["token"] == "Bearer secret"
    assert "Authorization" not in found["headers"]
    length = int(found["headers"]["Inference-Header-Content-Length"])
    assert body[length:] == bytes([1, 0, 255, 10])
    assert json.loads(body[:length]) == {
        "inputs": [{"name": "wire", "datatype": "UINT8", "shape": [1, 4], "parameters": {"binary_data_size": 4}}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }


def test_an_answer_is_read_in_both_forms_and_refused_where_it_is_none():
    header = b'{"outputs":[{"name":"logits"}]}'
    logits = np.array([1.5, -2, 3], np.float32)
    listed = b'{"outputs":[{"data":[[1.5,-2,3]]}]}'
    odd = np.array([1, np.nan, 3], np.float32)
    cases = [
        (str(len(header)), header + logits.tobytes()),
        (None, listed),
        (str(len(header)), header + odd.tobytes()),
        (str(len(header)), header + logits[:2].tobytes()),
        (str(len(header)), header + b"abc"),
        (None, b"<html>"),
        ("9999", header),
        (None, b'{"outputs":[]}'),
    ]
    found = node(
        "const read = (...of) => { try { return [...logitsOf(...of, 3)]; } catch (error) { return error.message; } };"
        "return cases.map(([length, body]) => read(length, bytes(body)));",
        cases=[[length, base64.b64encode(body).decode()] for length, body in cases],
    )
    assert found[:2] == [[1.5, -2, 3]] * 2
    assert all(isinstance(one, str) and one.startswith("The server's answer ") for one in found[2:])


def test_every_status_of_the_server_is_explained():
    statuses = [400, 401, 404, 408, 413, 500, 503, 504]
    found = node(
        "return [statuses.map((status) => explained(status, 'm-1')), "
        """explained(400, "m-1", '{"error":"malformed"}'), explained(400, "m-1", '{"error":7}')];""",
        statuses=statuses,
    )
    assert found[1:] == [f"The server answered with status 400{reason}." for reason in (": malformed", "")]
    found = found[0]
    assert len(set(found)) == 7  # both kinds of lateness read alike
    assert all(text.startswith(("The ", "This ")) for text in found)
    assert "m-1" in found[2]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_codes_are_read_as_the_codec_packs_them(bits):
    grid = Grid((3, 3), bits, torch.zeros(3), torch.ones(3))
    sent = torch.randint(2**bits, (1, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    found = node("return text(shades(bytes(wire), codec, 9));", wire=coded(grid.encode(sent)), codec=grid.codec)
    np.testing.assert_allclose(decoded(found, np.float32), sent.flatten() / grid.top, rtol=1e-6)


def test_floats_are_read_and_stretched():
    halves = np.arange(2**16, dtype=np.uint16)
    halves = halves[np.isfinite(halves.view(np.float16))]
    numbers = np.array([-1, 3, 1], np.float32)
    found = node(
        "return [text(Float32Array.from(new Uint16Array(bytes(halves).buffer), half)), "
        "text(shades(bytes(floats), 'float32', 3)), text(shades(bytes(short), 'float16', 3))];",
        halves=coded(halves),
        floats=coded(numbers),
        short=coded(numbers.astype(np.float16)),
    )
    assert np.array_equal(decoded(found[0], np.float32), halves.view(np.float16).astype(np.float32))
    assert decoded(found[1], np.float32).tolist() == decoded(found[2], np.float32).tolist() == [0, 1, 0.5]


def test_an_unchanged_image_keeps_its_wire():
    found = node("""
        let made = 0;
        const memory = new Remembered(2), make = async () => ++made;
        const ask = (...pixels) => memory.of(Uint8Array.from(pixels), make);
        const fails = () => memory.of(Uint8Array.of(9), async () => { throw new Error("broken"); });
        const all = [await ask(1, 2), await ask(1, 2), await ask(2, 1), await ask(1, 2)];
        const together = await Promise.all([ask(7), ask(7)]);
        await fails().catch(() => 0);
        return [all, together, await ask(9)];
    """)
    assert found == [[1, 1, 2, 1], [3, 3], 4]


def test_the_packed_parts_are_unpacked():
    contents = [bytes(range(256))[:n] * 3 for n in (0, 1, 2, 3, 4, 85)]
    texts = [base64.b85encode(content).decode().replace("<", ".") for content in contents]
    found = node("return texts.map((one) => text(base85(one)));", texts=[*texts, page.packed(b"wire")])
    assert [base64.b64decode(text) for text in found[:-1]] == contents
    assert gzip.decompress(base64.b64decode(found[-1])) == b"wire"


def test_probabilities_and_distances():
    found = node("return [softmax(Float32Array.of(1000, 1000 + Math.log(3))), graysApart([0, 0], [3, 4])];")
    assert found == [[pytest.approx(0.25, rel=1e-4), pytest.approx(0.75, rel=1e-4)], pytest.approx(math.sqrt(12.5))]
