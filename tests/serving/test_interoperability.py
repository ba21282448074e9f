"""tritonclient, unmodified, is answered over both doors; the benchmark asks it more."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

import certificates


@pytest.mark.skipif(certificates.OPENSSL is None, reason="needs openssl")
def test_tritonclient_is_answered(bundle_folder, tmp_path, monkeypatch):
    for module in ("tritonclient.http", "tritonclient.http.aio", "tritonclient.grpc", "tritonclient.grpc.aio"):
        pytest.importorskip(module)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    found = import_module("interoperability").measure(bundle_folder, sys.executable, 400, tmp_path)
    assert found["held"], found
