"""The browser page in a real browser: its codes beside Python's, what it asks for, what it shows, how fast it is.

    npm pack onnxruntime-web@1.30.0 && tar xzf onnxruntime-web-1.30.0.tgz
    python benchmarks/page.py BUNDLE --runtime package/dist --chromium /usr/bin/chromium [--axe axe.min.js]

BUNDLE was exported from a CIFAR-10 run; --root names the folder of the images. Opened as a file and handed out by
`splitveil serve --demo`, the page must ask nothing of anybody but its server, write nothing to the console, send the
same bytes for the same picture and nothing while noise is off; a violated check ends the run. Writes
benchmarks/page.json, and the picture of docs/page.md with --picture.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import platform
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chromium import Browser, chromium
from PIL import Image

from splitveil.data import load
from splitveil.data._decode import _read
from splitveil.deploy import bundle as bundles
from splitveil.deploy import page
from splitveil.deploy.draws import Draw
from splitveil.deploy.graphs import Session
from splitveil.storage.files import write_json

LOADS = 5
PHOTOGRAPHS = 20
SHIP = 8  # class of the picture that is shown in the docs
PATIENCE = 60.0  # seconds for a server to start
TOOLS = """
globalThis.bench = {
  bytes: (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)),
  text: (array) => btoa(String.fromCharCode(...new Uint8Array(array.buffer, array.byteOffset, array.byteLength))),
  array: (kind, text) => {
    const { buffer } = bench.bytes(text);
    return kind === "integer" ? new BigInt64Array(buffer) : new Float32Array(buffer);
  },
};
"""
SHOWN = "!document.getElementById('results').classList.contains('empty')"


def check(holds: bool, what: str) -> None:
    """End the run where a check fails."""
    if not holds:
        sys.exit(f"failed: {what}")
    print(f"  {what}", flush=True)


def coded(array: np.ndarray) -> str:
    """Return an array as text."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def png(image: np.ndarray, kind: str = "PNG") -> bytes:
    """Return an image (H, W, C) as a file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return file.getvalue()


def codes(browser: Browser, held: bundles.Bundle, images: torch.Tensor) -> dict[str, Any]:
    """Compare the page's pixels and codes with Python's, for the same draws."""
    session, rng = Session(held.models["device"]), torch.Generator().manual_seed(0)
    draws = [Draw(d["name"], d["kind"], tuple(d["shape"]), 0, d.get("high")) for d in held.wire["draws"]]
    numbers = [draw.sample(len(images), rng) for draw in draws]
    named = {draw.name: one for draw, one in zip(draws, numbers, strict=True)}
    expected = session({"image": images, **named}).numpy()
    found = []
    browser.run(TOOLS)
    for i, image in enumerate(images.numpy()):
        given = [{"kind": d.kind, "numbers": coded(n[i].numpy())} for d, n in zip(draws, numbers, strict=True)]
        content = coded(np.frombuffer(png(image), np.uint8))
        wire = browser.run(f"""(async () => {{
            const pixels = await splitveil.read(new Blob([bench.bytes("{content}")]));
            if (bench.text(pixels) !== "{coded(image)}") throw new Error("other pixels");
            const numbers = {json.dumps(given)}.map((one) => bench.array(one.kind, one.numbers));
            return bench.text(await splitveil.encode(pixels, numbers));
        }})()""")
        found.append(np.frombuffer(base64.b64decode(wire), expected.dtype))
    apart = np.abs(np.stack(found).astype(np.float64) - expected)
    return {"images": len(images), "equal": float((apart == 0).mean()), "largest_difference": float(apart.max())}


def photographs(browser: Browser, images: torch.Tensor) -> dict[str, Any]:
    """Compare the page's pixels of larger JPEG files with those that training would read."""
    differ = []
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images.numpy()):
            size = (640, 480) if i % 2 else (480, 640)
            enlarged = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
            path = Path(folder, f"{i}.jpg")
            path.write_bytes(png(enlarged, "JPEG"))
            expected = _read(path, 32, True).transpose(1, 2, 0)
            content = coded(np.frombuffer(path.read_bytes(), np.uint8))
            text = browser.run(f"splitveil.read(new Blob([bench.bytes('{content}')])).then(bench.text)")
            found = np.frombuffer(base64.b64decode(text), np.uint8).reshape(expected.shape)
            differ.append(np.abs(found.astype(int) - expected))
    return {"files": len(differ), "mean_levels": float(np.mean(differ)), "most_levels": int(np.max(differ))}


def speed(browser: Browser, image: np.ndarray, wires: int) -> dict[str, Any]:
    """Encode one image again and again, each time with fresh noise; count the wires and measure the time."""
    found = browser.run(f"""(async () => {{
        const pixels = bench.bytes("{coded(image)}"), seen = new Set(), start = performance.now();
        for (let i = 0; i < {wires}; i++) seen.add(bench.text(await splitveil.encode(pixels, splitveil.fresh())));
        return [seen.size, (performance.now() - start) / {wires}];
    }})()""")
    return {"wires": wires, "different": found[0], "milliseconds": round(found[1], 2)}


def quiet(browser: Browser, requests: list[str], where: str) -> None:
    """Check that the page has asked for these addresses only, and that the console is empty."""
    check(browser.requests == requests, f"{where}: asked for {requests} and nothing else")
    check(browser.console == [], f"{where}: nothing on the console {browser.console}")


def offline(browser: Browser, path: Path, pictures: list[Path]) -> list[float]:
    """Use the page that was opened as a file; return the seconds of each load."""
    loads = [browser.open(path.as_uri()) for _ in range(LOADS)]
    for picture in pictures:
        browser.choose("#file", picture)
        browser.until(SHOWN)
    browser.run("document.getElementById('camera').click()")
    browser.until("document.getElementById('video').videoWidth")
    browser.run("document.getElementById('snap').click()")
    browser.until("document.getElementById('finder').hidden")
    browser.run("document.getElementById('send').click()")
    said = browser.run("document.getElementById('answer-note').textContent")
    check("opened as a file" in said, f"opened as a file: it says {said!r}")
    quiet(browser, [f"GET {path.as_uri()}"], "opened as a file")
    reached = browser.run("fetch('http://127.0.0.1:9/').then(() => 'reached', (error) => error.name)")
    check(reached == "TypeError", "opened as a file: its policy lets no request out")
    return loads


@contextmanager
def server(folder: Path, runtime: Path, token: str) -> Iterator[str]:
    """Start `splitveil serve --demo` for who has the token; yield its address."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as place:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        Path(place, "tokens").write_text(f"page:{hashlib.sha256(token.encode()).hexdigest()}\n", "utf-8")
        given = [folder, "--demo", "--runtime", runtime, "--port", port, "--token-file", Path(place, "tokens")]
        command = [sys.executable, "-c", "from splitveil.cli import main; main()", "serve", *map(str, given)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            wait(f"http://127.0.0.1:{port}/v2/health/ready", process)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait(20)


def wait(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server is ready."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                sys.exit("failed: the server did not start")
            time.sleep(0.2)


def send(browser: Browser, token: str = "") -> str:
    """Click on Send, and return what the page then says."""
    browser.run(f"document.getElementById('token').value = {json.dumps(token)}")
    browser.run("document.getElementById('answer-note').textContent = 'waiting'")
    browser.run("document.getElementById('send').click()")
    browser.until("!['waiting', 'Sending …'].includes(document.getElementById('answer-note').textContent)")
    return browser.run("document.getElementById('answer-note').textContent")


def served(browser: Browser, address: str, token: str, held: bundles.Bundle, pictures: list[Path]) -> dict[str, Any]:
    """Use the page that a server hands out: its answers are those of the tail for the bytes that it sent."""
    loads = [browser.open(address) for _ in range(LOADS)]
    quiet(browser, [f"GET {address}"], "served, before anything is sent")
    tail, top = Session(held.models["cloud"]), 0
    browser.choose("#file", pictures[0])
    browser.until(SHOWN)
    said = send(browser)
    check("token" in said, f"served: without a token it says {said!r}")
    for picture in pictures:
        browser.run("document.getElementById('results').classList.add('empty')")
        browser.choose("#file", picture)
        browser.until(SHOWN)
        browser.bodies.clear()
        said = [send(browser, token), send(browser, token)]
        check(said[0] == said[1] and said[0].startswith("Sent: "), f"served: {picture.name}: {said[0]}")
        check(len(browser.bodies) == 2, "served: both times something was sent")
        one, other = browser.bodies
        check(one == other, "served: the same picture sent the same bytes again")
        wire = torch.frombuffer(bytearray(one[-held.wire["wire"]["bits_per_image"] // 8 :]), dtype=torch.uint8)
        shares = tail({"wire": wire[None]})[0].softmax(0).tolist()
        rows = browser.run("[...document.querySelectorAll('#bars li')].map((li) => li.innerText.split('\\n'))")
        best = sorted(zip(shares, held.wire["classes"], strict=True), reverse=True)[:5]
        same = [name for _, name in best] == [row[0] for row in rows]
        same &= all(
            abs(100 * share - float(row[1].rstrip(" %"))) < 0.6 for (share, _), row in zip(best, rows, strict=True)
        )
        check(same, f"served: the answer is the tail's for these bytes ({best[0][1]}, {best[0][0]:.0%})")
        top += best[0][1] == picture.stem
    browser.bodies.clear()
    browser.run("document.getElementById('noise').click()")
    browser.until("document.body.classList.contains('still')")
    browser.run("document.getElementById('send').disabled = false; document.getElementById('send').click()")
    browser.run("new Promise((done) => setTimeout(done, 500))")
    check(browser.bodies == [], "served: nothing is sent while noise is off")
    browser.run("document.getElementById('noise').click()")
    browser.until("!document.body.classList.contains('still')")
    send(browser, token)
    check(browser.bodies == [other], "served: noise on again, the remembered bytes are sent")
    check(
        browser.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0,
        "served: stores nothing",
    )
    hosts = {request.split("/")[2] for request in browser.requests}
    check(hosts == {address.split("/")[2]}, "served: every request went to its own server")
    return {"load_seconds": summary(loads), "pictures": len(pictures), "right": top}


def accessible(browser: Browser, axe: Path | None) -> list[str]:
    """Return the faults that axe finds, at both widths and in both colors."""
    found: set[str] = set()
    for width, dark in ((1100, False), (1100, True), (390, False), (390, True)) if axe else ():
        browser.look(width, 900, dark)
        browser.run(axe.read_text("utf-8") + ";0")
        faults = browser.run("axe.run().then((r) => r.violations.map((v) => `${v.impact}: ${v.id}`))")
        found |= set(faults)
        wide = browser.run("document.documentElement.scrollWidth")
        check(wide <= width, f"{width} pixels wide: nothing sticks out")
    return sorted(found)


def summary(values: list[float]) -> dict[str, float]:
    """Return median and largest."""
    return {"median": round(statistics.median(values), 2), "largest": round(max(values), 2)}


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--chromium", required=True)
    parser.add_argument("--axe", type=Path, help="axe.min.js of npm axe-core")
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--wires", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--picture", type=Path, help="where the screenshot goes")
    return parser.parse_args()


def small(content: bytes) -> bytes:
    """Return a screenshot as a PNG of at most 256 colors."""
    file = io.BytesIO()
    few = Image.open(io.BytesIO(content)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(file, "PNG", optimize=True)
    return file.getvalue()


def command() -> str:
    """Return the command without the folders of this machine."""
    return " ".join(["python benchmarks/page.py", *(word.rpartition("/")[2] for word in sys.argv[1:])])


def examples(folder: Path, root: Path) -> tuple[torch.Tensor, list[Path]]:
    """Write one picture of each class; return the test images (N, H, W, C) and the files."""
    split = load("cifar10", root=root)
    files = []
    for label, name in enumerate(split.classes):
        files.append(folder / f"{name}.png")
        index = int((split.test.labels == label).nonzero()[3])
        files[-1].write_bytes(png(split.test.images[index].permute(1, 2, 0).numpy()))
    order = torch.randperm(len(split.test.images), generator=torch.Generator().manual_seed(0))
    return split.test.images[order].permute(0, 2, 3, 1).contiguous(), files


def main() -> None:
    """Run every check and write the record."""
    given = options()
    held = bundles.read(given.bundle)
    with tempfile.TemporaryDirectory() as place, chromium(given.chromium) as browser:
        pictures = Path(place, "pictures")
        pictures.mkdir()
        images, files = examples(pictures, given.root)
        path = Path(place, "page.html")
        _, size = page.write(given.bundle, given.runtime, path, pictures)
        record: dict[str, Any] = {"command": command(), "model": held.model_name, "bytes": size}
        browser.look(1100, 900)
        record["file"] = {"load_seconds": summary(offline(browser, path, files[:2]))}
        record["codes"] = codes(browser, held, images[: given.images])
        record["photographs"] = photographs(browser, images[:PHOTOGRAPHS])
        record["speed"] = speed(browser, images[0].numpy(), given.wires)
        check(record["codes"]["equal"] > 0.999, f"codes equal Python's: {record['codes']}")
        check(record["speed"]["different"] == given.wires, f"no two wires are equal: {record['speed']}")
        faults = accessible(browser, given.axe)
        token = secrets.token_urlsafe(32)
        with server(given.bundle, given.runtime, token) as address:
            browser.look(1100, 960)
            record["served"] = served(browser, address, token, held, files)
            record["axe"] = sorted({*faults, *accessible(browser, given.axe)})
            grave = [fault for fault in record["axe"] if fault.startswith(("serious", "critical"))]
            check(not grave, f"axe finds no serious fault: {record['axe']}")
            if given.picture:
                browser.look(1100, 960)
                browser.choose("#file", files[SHIP])
                browser.until("document.querySelector('#bars li').textContent.startsWith('ship')")
                given.picture.write_bytes(small(browser.picture(whole=False)))
        record["browser"] = browser.version
    record |= {
        "runtime": page.NEWEST,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "attack": (given.bundle / bundles.PICTURE).is_file(),
    }
    write_json(given.out, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
