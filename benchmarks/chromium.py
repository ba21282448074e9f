"""Chromium without a window, driven over its DevTools protocol through two pipes, so that no package is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PATIENCE = 120.0  # seconds for one command
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--remote-debugging-pipe"),
    *("--disable-background-networking", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]


class Browser:
    """One page of a Chromium.

    Attributes:
        requests: addresses that the page has asked for, those of its own data left out.
        console: what the page, or the browser about it, has written to the console.
        bodies: of the requests that had one.
        version: of the browser.
    """

    def __init__(self, process: subprocess.Popen[bytes], reading: int, writing: int):
        self._process, self._reading, self._writing = process, reading, writing
        self._number, self._rest, self._session = 0, b"", ""
        self._answers: dict[int, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.console: list[str] = []
        self.bodies: list[bytes] = []
        self.version = ""
        self.loaded = False

    def attach(self) -> None:
        """Open a page and listen to it."""
        self.version = self.call("Browser.getVersion")["product"]
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the answer to a command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        _write(self._writing, json.dumps(message).encode() + b"\0")
        number, end = self._number, time.monotonic() + PATIENCE
        while number not in self._answers:
            self._listen(end - time.monotonic())
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, address: str) -> float:
        """Open an address, wait until the page says that it is ready, and return the seconds that took."""
        self.requests.clear()
        self.console.clear()
        self.loaded = False
        start = time.monotonic()
        self.call("Page.navigate", url=address)
        while not self.loaded:
            self._listen(PATIENCE)
        self.run("splitveil.ready")
        return time.monotonic() - start

    def run(self, expression: str) -> Any:
        """Return the value of JavaScript, which may be a promise."""
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self.call("Runtime.evaluate", expression=expression, **options)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", "JavaScript failed"))
        return answer["result"].get("value")

    def choose(self, selector: str, path: Path) -> None:
        """Put a file into the page's file chooser."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            self._listen(0.02, must=False)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window, and whether the system is dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def picture(self, whole: bool = True) -> bytes:
        """Return a PNG of the page."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def _listen(self, seconds: float, must: bool = True) -> None:
        """Take in what the browser says within these seconds."""
        ready, _, _ = select.select([self._reading], [], [], max(0.0, seconds))
        if not ready:
            if must:
                raise TimeoutError("the browser does not answer")
            return
        part = os.read(self._reading, 1 << 20)
        if not part:
            raise RuntimeError("the browser has ended")
        *whole, self._rest = (self._rest + part).split(b"\0")
        for message in map(json.loads, whole):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._event(message["method"], message["params"])

    def _event(self, name: str, about: Mapping[str, Any]) -> None:
        if name == "Page.loadEventFired":
            self.loaded = True
        elif name == "Network.requestWillBeSent" and not about["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(f"{about['request']['method']} {about['request']['url']}")
            if about["request"].get("hasPostData"):
                parts = about["request"].get("postDataEntries", [])
                self.bodies.append(b"".join(base64.b64decode(part["bytes"]) for part in parts))
        elif name == "Log.entryAdded":
            self.console.append(about["entry"]["text"])
        elif name == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(value.get("value")) for value in about["args"]))
        elif name == "Runtime.exceptionThrown":
            self.console.append(about["exceptionDetails"]["text"])


@contextlib.contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """Start Chromium, yield its page, and end it.

    Args:
        program: path of Chromium or Chrome.
    """
    to_browser, writing = os.pipe()
    reading, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = ["sh", "-c", f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"', "sh", program, *FLAGS]
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            browser = Browser(process, reading, writing)
            browser.attach()
            yield browser
        finally:
            process.terminate()
            process.wait(20)
            os.close(reading)
            os.close(writing)


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]
