"""The commands of the guide start a server and a device, as they stand there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import certificates
import served
import small_bundle

GUIDE = Path(__file__).parents[2] / "docs" / "service.md"


def blocks(section: str) -> list[str]:
    """The commands of a section of the guide, block by block."""
    (text,) = re.findall(rf"^## {re.escape(section)}$(.*?)^## ", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shell(folder: Path) -> dict[str, str]:
    """An environment in which a shell finds the two programs of this checkout."""
    programs = folder / "programs"
    programs.mkdir()
    for name, module in (("splitveil", "splitveil.cli"), ("splitveil-edge", "splitveil_edge.command")):
        program = programs / name
        program.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from {module} import main; main()' \"$@\"\n")
        program.chmod(0o755)
    environment = served.surroundings()
    found = os.pathsep.join([environment["PYTHONPATH"], *sys.path])
    return {**environment, "PATH": f"{programs}{os.pathsep}{environment['PATH']}", "PYTHONPATH": found}


@pytest.mark.skipif(certificates.OPENSSL is None, reason="openssl is not installed")
def test_one_machine(tmp_path):
    small_bundle.make(tmp_path / "bundle")
    gray = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(gray).save(tmp_path / "photo.png")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    certify, start, ask = (block.replace("8443", str(port)) for block in blocks("2. One machine"))
    made_token, serve = start.strip().splitlines()
    environment = shell(tmp_path)

    def run(command: str) -> str:
        done = subprocess.run(["bash", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(certify)
    run(made_token)
    server = subprocess.Popen(
        ["bash", "-ec", f"exec {serve}"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert "serving tiny-" in server.stdout.readline()
        said = run(ask)
    finally:
        server.terminate()
        assert server.wait(30) == 0
    assert re.search(r"photo.png\s+(cat|dog|owl)\s+\d+\.\d%", said)
