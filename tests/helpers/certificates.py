"""Certificates for tests, made by the command openssl in milliseconds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

OPENSSL = shutil.which("openssl")
CONFIG = """
[ca]
default_ca = own
[own]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
copy_extensions = copy
[any]
commonName = supplied
"""
EXTENSIONS = (  # what Python 3.13 asks of a certificate that is its own authority
    "basicConstraints=critical,CA:TRUE",
    "keyUsage=critical,digitalSignature,keyCertSign",
    "subjectKeyIdentifier=hash",
)


def make(
    folder: Path,
    name: str = "server",
    *,
    until: str = "20991231235959Z",
    hosts: str = "DNS:localhost,IP:127.0.0.1",
) -> tuple[Path, Path]:
    """Return a self-signed certificate and its key, both PEM; ``until`` is when it expires, ``hosts`` what it names."""
    extensions = [word for each in (*EXTENSIONS, f"subjectAltName={hosts}") for word in ("-addext", each)]
    key, request, signed = (folder / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
    config = folder / f"{name}.cnf"
    config.write_text(CONFIG.format(folder=folder))
    (folder / "index").write_text("")
    (folder / "serial").write_text("01")
    _run(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", key, "-out", request, "-subj", "/CN=localhost", *extensions),
    )
    _run(
        *("ca", "-batch", "-notext", "-selfsign", "-config", config, "-keyfile", key, "-in", request),
        *("-out", signed, "-startdate", "20200101000000Z", "-enddate", until),
    )
    return signed, key


def _run(*arguments: object) -> None:
    done = subprocess.run([str(OPENSSL), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
