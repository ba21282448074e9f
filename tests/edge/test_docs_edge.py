"""The Python code and the commands of docs/edge.md run as they stand, on a server of the test."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import certificates
import small_bundle
from splitveil_edge.command import main
from stub_server import serving

PAGE = Path(__file__).parents[2] / "docs/edge.md"


@pytest.mark.skipif(certificates.OPENSSL is None, reason="openssl is not installed")
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    page = PAGE.read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    certificate, key = certificates.make(tmp_path)
    made = small_bundle.make(tmp_path / "bundle")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    np.save("images.npy", images)
    np.save("photo.npy", images[0])
    Path("token").write_text("secret")
    Path("ca.pem").write_bytes(certificate.read_bytes())
    with serving(made, tls=(certificate, key)) as stub:
        page = page.replace("https://models.example.org:8443", stub.url).replace("photo.png", "photo.npy")
        (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        exec(compile(block, "docs/edge.md", "exec"), {})
        assert len(capsys.readouterr().out.splitlines()) == 2
        commands = re.findall(r"^splitveil-edge (.*)$", page, re.MULTILINE)
        assert [command.split()[0] for command in commands] == ["query", "bench"]
        for command in commands:
            main(shlex.split(command))
            assert len(capsys.readouterr().out.splitlines()) == (2 if command.startswith("query") else 5)
    assert {asked.headers["Authorization"] for asked in stub.asked} == {"Bearer secret"}
