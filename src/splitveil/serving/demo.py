"""From nothing to a served page: a model of digits is trained, exported, and served with TLS and a token."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import config
from ..data import ImageSet, load
from ..deploy import export as exporting
from ..deploy import page as pages
from ..errors import UserError
from ..runs import Run
from ..storage.files import atomic_write
from ..storage.folders import whole_folder
from ..training import trainer
from . import tokens
from .settings import Settings, bound, check

SETTINGS: dict[str, Any] = {
    **{"data": "digits", "arch": "resnet20_sgm", "cut": 5, "bottleneck": 2, "epochs": 9},
    "defense": ["gaussian:0.2", "cem:weight=8,schedule=ramp"],
}
"""The training; about a minute on two cores."""
RUNTIME = "onnxruntime-web@1.30.0"
EXAMPLES = 8
OWN = frozenset({"run", "bundle", "runtime", "examples", "cert.pem", "key.pem", "tokens", "token"})
"""What the folder holds."""
STEPS = ("training", "export", "the browser's runtime", "certificate and token", "page")


@dataclass(frozen=True)
class Ready:
    """What is to be served.

    Attributes:
        settings: of the server.
        page: HTML that it hands out.
        token: that the page asks for.
    """

    settings: Settings
    page: str
    token: str


def prepare(
    out: Path, port: int, runtime: Path | None, show: Callable[[int, str], None] = lambda done, step: None
) -> Ready:
    """Train, export and set up all that the server needs; what is there from an earlier call is used.

    Args:
        out: folder of all of it.
        port: of the server, on this machine only; 0: any that is free.
        runtime: folder ``dist`` of onnxruntime-web; None: npm fetches it.
        show: called with the number of steps done and the name of the next.

    Raises:
        UserError: openssl or npm is missing, npm cannot reach its registry, the port is taken, or the folder holds
            something else.
    """
    if out.exists() and not (out.is_dir() and all(path.name in OWN or path.name[0] == "." for path in out.iterdir())):
        raise UserError(f"{out} holds something else; choose an empty or new folder for --out")
    _need("openssl", "it makes the certificate; install it")
    if runtime is None and not (out / "runtime").is_dir():
        _need("npm", f"it fetches {RUNTIME}; install it, or give the package's folder dist with --runtime")
    cert, key, file = (str(out / name) for name in ("cert.pem", "key.pem", "tokens"))
    shown = str(out / "examples" / "3.png")
    settings = Settings(str(out / "bundle"), port=port, tls_cert=cert, tls_key=key, token_file=file, image=shown)
    check(settings)
    bound(settings, port, several=False).close()  # a port that is taken is told now, and not after the training
    images = load("digits")
    show(0, STEPS[0])
    run = _trained(out / "run", images)
    show(1, STEPS[1])
    exporting.export(run, images, out / "bundle", exporting.Options(overwrite=(out / "bundle").exists()))
    show(2, STEPS[2])
    engine = runtime or _fetched(out / "runtime")
    show(3, STEPS[3])
    _certificate(out)
    (out / "tokens").unlink(missing_ok=True)
    token, _ = tokens.make("demo", out / "tokens")
    secret = out / "token"
    secret.unlink(missing_ok=True)
    secret.touch(0o600)
    secret.write_text(f"{token}\n")
    show(4, STEPS[4])
    _pictures(out / "examples", images)
    _, page = pages.of(out / "bundle", engine, out / "examples")
    show(5, "")
    return Ready(settings, page, token)


def _need(name: str, why: str) -> None:
    if shutil.which(name) is None:
        raise UserError(f"the command {name} is missing: {why}")


def _trained(folder: Path, images: ImageSet) -> Run:
    if not (folder / "summary.json").is_file():
        trainer.fit(config.parse(SETTINGS).resolve(), images, folder, resume=folder.exists())
    return Run.open(folder)


def _fetched(folder: Path) -> Path:
    """Return the folder ``dist`` of the browser's runtime, which npm fetches once."""
    if not folder.is_dir():
        with whole_folder(folder, "fetching the runtime") as place:
            _run(["npm", "pack", RUNTIME, "--silent", "--pack-destination", str(place)], "npm cannot fetch the runtime")
            (archive,) = place.glob("*.tgz")
            with tarfile.open(archive) as packed:
                packed.extractall(place, filter="data")
            archive.unlink()
    return folder / "package" / "dist"


def _certificate(out: Path) -> None:
    """Make a certificate for this machine alone, valid for a month."""
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    asked = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    asked += ["-keyout", str(out / "key.pem"), "-out", str(out / "cert.pem"), "-days", "30"]
    _run([*asked, "-subj", "/CN=localhost", "-addext", names], "openssl cannot make a certificate")
    (out / "key.pem").chmod(0o600)


def _run(command: list[str], trouble: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(f"{trouble}: {said[:200]}")


def _pictures(folder: Path, images: ImageSet) -> None:
    """Write a test image of each of the first classes, for the page to offer."""
    import numpy as np
    from PIL import Image

    labels = images.test.labels.numpy()
    folder.mkdir(exist_ok=True)
    for label in range(EXAMPLES):
        place = int(np.argmax(labels == label))
        pixels = images.test.images[place].permute(1, 2, 0).numpy()
        with atomic_write(folder / f"{images.classes[label]}.png") as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")
