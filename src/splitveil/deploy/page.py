"""The page: one HTML file in which the device's half of a bundle runs in a browser, and which shows what leaves."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import UserError
from ..storage import reading
from ..storage.files import write_text
from .bundle import Bundle, Wire, attack_of, read

SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
RUNTIMES = {
    "1.30.0": {
        SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
        WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    },
}
"""The releases of onnxruntime-web that the page was tested with: SHA-256 of the files that it takes of each.

There is no way around this list. The runtime sees the picture and could send it, and the page promises that nothing
but the wire leaves; so only files that were looked at are put into it.
"""
NEWEST = max(RUNTIMES)
GET = f"`npm pack onnxruntime-web@{NEWEST}`, unpack it and name its folder package/dist with --runtime"
LARGE = 6_000_000
"""Bytes of a page from which it is slow to load."""
MOST_EXAMPLES, EXAMPLE_BYTES = 12, 200_000
PARTS = ("page_pixels.js", "page_draws.js", "page_protocol.js", "page_view.js")
EXPORTED = re.compile(r"\bexport\s*\{([^{}]*)\};?")


@dataclass(frozen=True)
class Runtime:
    """The files of onnxruntime-web that a page holds.

    Attributes:
        version: release.
        script: its JavaScript, an ECMAScript module.
        wasm: its WebAssembly module.
    """

    version: str
    script: str
    wasm: bytes


@dataclass(frozen=True)
class Example:
    """A picture that the page offers.

    Attributes:
        name: what it is called.
        content: image file of a kind that browsers read.
    """

    name: str
    content: bytes


def runtime(folder: str | Path) -> Runtime:
    """Return the runtime in a folder, after holding it against the checksums of the releases that were tested.

    Args:
        folder: ``dist`` of the npm package onnxruntime-web, or the package itself.

    Raises:
        UserError: a file is missing, or the release is none of `RUNTIMES`.
    """
    folder = Path(folder)
    if (folder / "dist").is_dir():
        folder /= "dist"
    for name in (SCRIPT, WASM):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}, so it is not the folder dist of onnxruntime-web; get it by {GET}")
    files = {name: reading.text_of(folder / name, GET) for name in (SCRIPT, WASM)}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for version, expected in RUNTIMES.items():
        if sums == expected:
            return Runtime(version, files[SCRIPT].decode(), files[WASM])
    found = re.search(rb"ONNX Runtime Web v(\d+\.\d+\.\d+)", files[SCRIPT][:400])
    named = found[1].decode() if found else "unknown"
    what = f"changed files of onnxruntime-web {named}" if named in RUNTIMES else f"onnxruntime-web {named}"
    raise UserError(
        f"{folder} holds {what}; the page takes tested files alone ({', '.join(RUNTIMES)}): get them by {GET}"
    )


def examples(folder: str | Path | None) -> list[Example]:
    """Return the pictures of a folder by name, which the page offers; none without a folder.

    Args:
        folder: at most 12 image files of at most 200,000 bytes; what begins with a point is left out.

    Raises:
        UserError: no folder, none or too many in it, one that is too large or not readable.
    """
    found = []
    for path in pictures_in(folder) if folder is not None else []:
        content = reading.text_of(path, "name another folder")
        if len(content) > EXAMPLE_BYTES:
            raise UserError(f"{path} has {len(content):,} bytes; expected at most {EXAMPLE_BYTES:,}: scale it down")
        found.append(Example(path.stem, content))
    return found


def pictures_in(folder: str | Path) -> list[Path]:
    """Return the files of a folder of pictures, by name.

    Args:
        folder: see `examples`.

    Raises:
        UserError: no folder, none or too many files in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name one that holds at most {MOST_EXAMPLES} pictures")
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    if not 0 < len(paths) <= MOST_EXAMPLES:
        raise UserError(f"{folder} holds {len(paths)} files; expected 1 to {MOST_EXAMPLES} pictures")
    return paths


def write(
    folder: str | Path, runtime_folder: str | Path, out: str | Path, pictures: str | Path | None = None
) -> tuple[str, int]:
    """Write the page of a bundle and return the model's name and the bytes of the page.

    Args:
        folder: the bundle, or its folder ``device``.
        runtime_folder: see `runtime`.
        out: the HTML file; it is replaced.
        pictures: see `examples`.

    Raises:
        UserError: see `of`; the file cannot be written.
    """
    bundle, text = of(folder, runtime_folder, pictures)
    write_text(out, text)
    return bundle.model_name, len(text.encode())


def of(folder: str | Path, runtime_folder: str | Path, pictures: str | Path | None = None) -> tuple[Bundle, str]:
    """Return a bundle and its page.

    Args:
        folder: the bundle, or its folder ``device``.
        runtime_folder: see `runtime`.
        pictures: see `examples`.

    Raises:
        UserError: the bundle has no device, or is damaged; the runtime is not one that was tested.
    """
    bundle = read(folder)
    return bundle, page(bundle, runtime(runtime_folder), attack_of(folder, bundle.wire), examples(pictures))


def page(bundle: Bundle, engine: Runtime, attack: bytes | None = None, pictures: Sequence[Example] = ()) -> str:
    """Return the page as one HTML text that loads nothing, the same for the same arguments.

    Args:
        bundle: with its device.
        engine: runtime of the page.
        attack: linear attack as an ONNX file.
        pictures: that the page offers.

    Raises:
        UserError: the bundle has no device, or its images are neither gray nor of three colors.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    if "device" not in bundle.models:
        raise UserError("the page runs device/encoder.onnx, which this part of a bundle does not hold; name the bundle")
    if bundle.wire["image"]["shape"][2] not in (1, 3):
        raise UserError(
            f"images of shape {bundle.wire['image']['shape']}; a browser shows 1 or 3 channels, the last axis"
        )
    environment = Environment(loader=PackageLoader("splitveil.deploy"), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    about = _about(bundle, engine, pictures)
    parts = [environment.loader.get_source(environment, name)[0] for name in PARTS]  # type: ignore[union-attr]
    script = _script(engine.script, parts)
    style = environment.loader.get_source(environment, "page.css")[0]  # type: ignore[union-attr]
    height, width, _ = bundle.wire["image"]["shape"]
    return environment.get_template("page.html.j2").render(
        about=about,
        policy=_policy(script, style),
        style=Markup(style),
        script=Markup(script),
        size=f"{height} × {width}",
        tiles=_tiles_text(bundle.wire),
        painted=tiles(bundle.wire).size,
        measured=_measured(bundle.wire),
        version=__version__,
        attacked=attack is not None,
        data=Markup(_json(about)),
        wasm=Markup(packed(engine.wasm)),
        encoder=Markup(packed(bundle.models["device"])),
        attack=Markup(packed(attack or b"")),
    )


def packed(content: bytes) -> str:
    """Return bytes as the page holds them: gzip without a date, then base 85, a fifteenth shorter than base 64.

    Args:
        content: any bytes.

    >>> packed(b"wire") == packed(b"wire"), "<" in packed(bytes(range(256)))
    (True, False)
    """
    return base64.b85encode(gzip.compress(content, 9, mtime=0)).decode().replace("<", ".")


@dataclass(frozen=True)
class Tiles:
    """How the numbers on the wire are painted: one tile for each channel, side by side.

    Attributes:
        channels: number of tiles.
        height, width: of a tile.
        across: tiles in a row.
        gap: pixels between two tiles.
    """

    channels: int
    height: int
    width: int
    across: int
    gap: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height of the picture."""
        down = -(-self.channels // self.across)
        return self.across * (self.width + self.gap) - self.gap, down * (self.height + self.gap) - self.gap


def tiles(wire: Wire) -> Tiles:
    """Return the tiles of a wire.

    The bundle does not tell the shape of what is sent. Noise that is added has it, so a draw of three axes with as many
    numbers is taken; otherwise one tile that is about square.

    Args:
        wire: content of wire.json.
    """
    values = _values(wire)
    shapes = [draw["shape"] for draw in wire["draws"]]
    side = math.ceil(math.sqrt(values))
    shape = next((one for one in shapes if len(one) == 3 and math.prod(one) == values), [1, -(-values // side), side])
    channels, height, width = shape
    square = math.ceil(math.sqrt(channels))
    full = (across for across in range(square, 2 * square + 1) if channels % across == 0)
    return Tiles(channels, height, width, next(full, square))


def _values(wire: Wire) -> int:
    """Return how many numbers are on the wire, those that only fill the last byte not counted where a draw tells."""
    (length,) = wire["wire"]["shape"]
    codec = wire["wire"]["codec"]
    each = 8 // int(codec.removeprefix("uint")) if codec.startswith("uint") else 1
    counts = [math.prod(draw["shape"]) for draw in wire["draws"]]
    return next((count for count in counts if length * each - each < count <= length * each), length * each)


def _about(bundle: Bundle, engine: Runtime, pictures: Sequence[Example]) -> dict[str, Any]:
    """Return all that the script must know."""
    wire = bundle.wire
    return {
        "model": bundle.model_name,
        "runtime": engine.version,
        "image": wire["image"]["shape"],
        "draws": wire["draws"],
        "wire": {key: wire["wire"][key] for key in ("dtype", "shape", "codec")},  # type: ignore[literal-required]
        "bytes": wire["wire"]["bits_per_image"] // 8,
        "values": _values(wire),
        "tiles": asdict(tiles(wire)),
        "painted": tiles(wire).size,
        "output": wire["outputs"][0]["name"],
        "outputs": math.prod(wire["outputs"][0]["shape"]),
        "classes": wire["classes"],
        "examples": [{"name": one.name, "data": base64.b64encode(one.content).decode()} for one in pictures],
    }


def _json(value: Any) -> str:
    """Return JSON that stands in a script element: no name in it can end that."""
    return json.dumps(value, sort_keys=True, allow_nan=False).replace("<", "\\u003c")


def _script(engine: str, parts: Sequence[str]) -> str:
    """Return one module: the runtime, whose export becomes the constant ``ort``, then our own script in a block."""
    names = EXPORTED.findall(engine)
    if len(names) != 1:
        raise UserError(f"{SCRIPT} has {len(names)} lists of exports; expected one: get it by {GET}")
    pairs = [name.split(" as ") for name in names[0].split(",")]
    held = ",".join(f"{public.strip()}:{own.strip()}" for own, public in pairs if public.strip() != "default")
    engine = EXPORTED.sub(lambda _: f"const ort={{{held}}};", engine)
    engine = re.sub(r"\n//# sourceMappingURL=.*", "", engine)
    script = f"{engine}\n{{\n{''.join(parts)}}}\n".replace("\r", "")
    if "</script" in script.lower() or "<!--" in script:
        raise UserError(f"{SCRIPT} cannot stand in a page, because it ends one; get it by {GET}")
    return script


def _policy(script: str, style: str) -> str:
    """Return the Content-Security-Policy: this script alone runs, and only its own server can be reached."""

    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {allowed(script)} 'wasm-unsafe-eval'; style-src {allowed(style)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _tiles_text(wire: Wire) -> str:
    found, numbers = tiles(wire), f"{_values(wire):,} numbers as {wire['wire']['codec']}"
    return numbers if found.channels == 1 else f"{numbers}: {found.channels} channels of {found.height} × {found.width}"


def _measured(wire: Wire) -> list[str]:
    """Return in words what the export has measured."""
    measured = wire["measured"]
    score, images = measured["accuracy_bundle"], measured["images"]
    low, high = score["ci95"]
    said = [
        f"This network names the right class for {score['mean']:.1%} [{low:.1%}, {high:.1%}] of {images:,} test images."
    ]
    if "linear_mse" in measured:
        coded = measured["linear_mse"]["coded"]
        mean, low, high = (255 * math.sqrt(max(0.0, error)) for error in (coded["mean"], *coded["ci95"]))
        said.append(
            f"On {measured['linear_mse']['images']:,} test images the linear attack is off by {mean:.1f} "
            f"[{low:.1f}, {high:.1f}] of 255 gray levels: the root of their mean squared error."
        )
    return said
