"""The door for gRPC as the command opens it: workers that share a port, TLS, a new certificate, the end."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess

import grpc
import numpy as np
import pytest

import certificates
import served
import small_bundle
from grpc_calls import expected, logits, request, some
from splitveil.deploy.bundle import read
from splitveil.serving import rpc
from splitveil.serving.settings import Settings


@pytest.mark.skipif(certificates.OPENSSL is None or not hasattr(os, "fork"), reason="needs openssl and POSIX signals")
def test_workers_share_the_port_with_tls_and_read_a_new_certificate(tmp_path):
    small_bundle.make(tmp_path / "b")
    certificate, key = certificates.make(tmp_path)
    settings = Settings(
        str(tmp_path / "b/cloud"), port=0, grpc_port=0, tls_cert=str(certificate), tls_key=str(key), workers=2
    )
    with served.launched(settings, subprocess.PIPE) as (process, line):
        assert process.stderr is not None
        found = re.search(r"gRPC at (127.0.0.1:\d+)\n", line)
        assert found
        taken = subprocess.run(
            served.command(dataclasses.replace(settings, grpc_port=int(found[1][10:]))),
            capture_output=True,
            text=True,
            env=served.surroundings(),
        )
        assert "choose another --grpc-port" in taken.stderr
        first = certificate.read_bytes()
        asked = request(read(tmp_path / "b"), some(2)).SerializeToString()

        def ask(root):
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.secure_channel(found[1], grpc.ssl_channel_credentials(root), options) as channel:
                return channel.unary_unary(f"/{rpc.SERVICE}/ModelInfer")(asked, timeout=20)

        for _ in range(12):  # twelve connections: both workers get some
            np.testing.assert_allclose(logits(ask(first)), expected(some(2)), rtol=1e-4)
        certificates.make(tmp_path)
        assert certificate.read_bytes() != first
        process.send_signal(signal.SIGHUP)
        read_again, lines = 0, []
        while read_again < 2:
            lines.append(json.loads(process.stderr.readline()))
            read_again += lines[-1]["event"] == "certificate read"
        for _ in range(6):
            assert len(logits(ask(certificate.read_bytes()))) == 2
        with pytest.raises(grpc.RpcError) as caught:
            ask(first)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert len({line["process"] for line in lines if line["event"] == "request"}) == 2
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
