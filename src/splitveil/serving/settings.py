"""What a server is started with, and what is refused before it opens a door."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import ssl
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ..errors import UserError
from .limits import Limits

BACKLOG = 1024
"""Connections that the system keeps before they are accepted."""
MOST_WORKERS = 256
"""Most processes of a server on one machine; each holds the model, and uses one core."""
LARGEST, LONGEST = 2**30, 2**20
"""Largest limit, in bytes or in number, and in seconds: gRPC counts bytes and milliseconds in 32 bits."""
OTHER_FILES = 64
"""Open files that a worker needs beside its connections."""


@dataclass(frozen=True)
class Settings:
    """What a server is started with.

    Attributes:
        bundle: BUNDLE or BUNDLE/cloud.
        host: address to listen on.
        port: its port; 0: any that is free.
        grpc_port: port of the door for gRPC; 0: any that is free; None: no such door.
        tls_cert: file of the certificate and its chain (PEM).
        tls_key: file of its key.
        token_file: file of tokens; None: everybody may ask.
        workers: number of processes.
        replicas: number of replicas on Ray; None: not on Ray.
        metrics_port: port of the metrics on loopback; 0: any that is free; None: no metrics.
        insecure: whether an address that others reach may do without TLS and tokens.
        page: an open file with the HTML that ``/`` hands out.
        image: file of a picture for the command that is printed at the start; None: there is none at hand.
        model: name and pair of the model that every process must serve; None: whatever the bundle holds.
        limits: limits of each worker.
    """

    bundle: str
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    token_file: str | None = None
    workers: int = 1
    replicas: int | None = None
    metrics_port: int | None = None
    insecure: bool = False
    page: int | None = None
    image: str | None = None
    model: str | None = None
    limits: Limits = field(default_factory=Limits)

    def to_json(self) -> str:
        """Return the settings as another process reads them."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Return settings.

        Args:
            text: what `to_json` made.
        """
        about = json.loads(text)
        return cls(**{**about, "limits": Limits(**about["limits"])})

    def url(self, port: int) -> str:
        """Return the address of the server.

        Args:
            port: the port that it has.

        >>> Settings("bundle", host="::1").url(80)
        'http://[::1]:80'
        """
        return f"{'https' if self.tls_cert else 'http'}://{self.address(port)}"

    def address(self, port: int) -> str:
        """Return host and port.

        Args:
            port: the port.
        """
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


def check(settings: Settings) -> None:
    """Refuse settings that contradict each other, or that let strangers in.

    Args:
        settings: the settings.

    Raises:
        UserError: such settings, or a host that is none.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise UserError("TLS needs both --tls-cert and --tls-key")
    if not 1 <= settings.workers <= MOST_WORKERS:
        raise UserError(f"--workers {settings.workers}; expected 1 to {MOST_WORKERS}, one for each processor core")
    if settings.replicas is not None:
        _check_ray(settings)
    for name in ("port", "grpc_port", "metrics_port"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < 2**16:
            raise UserError(f"--{name.replace('_', '-')} {value}; expected 0 to 65535")
    if settings.grpc_port is not None and find_spec("grpc") is None:
        raise UserError("--grpc-port needs the package grpcio; pip install 'splitveil[deploy]'")
    if settings.port and settings.port == settings.grpc_port:
        raise UserError(f"--port and --grpc-port are both {settings.port}; give each door its own")
    for name, value in asdict(settings.limits).items():
        most = LONGEST if name.endswith("_seconds") else LARGEST
        if value is not None and not 0 < value <= most:  # NaN is not
            raise UserError(f"the limit {name.replace('_', '-')} is {value}; expected more than 0, at most {most:,}")
    if settings.limits.max_queue < settings.limits.max_images:
        raise UserError("the queue is shorter than one request: raise --max-queue or lower --max-images")
    _, address = address_of(settings)
    missing = [name for name, file in (("TLS", settings.tls_cert), ("tokens", settings.token_file)) if file is None]
    if missing and not settings.insecure and not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
        raise UserError(
            f"{settings.host} can be reached from other machines and has no {' and no '.join(missing)}; give "
            "--tls-cert, --tls-key and --token-file, or --insecure if something before it has both"
        )


def _check_ray(settings: Settings) -> None:
    """Refuse what Ray does in another way."""
    if settings.replicas is not None and settings.replicas < 1:
        raise UserError(f"--replicas {settings.replicas}; expected at least 1")
    others = {
        "--workers": settings.workers > 1,
        "--grpc-port": settings.grpc_port is not None,
        "--metrics-port": settings.metrics_port is not None,
        "--port 0": settings.port == 0,
    }
    for name in (name for name, given in others.items() if given):
        raise UserError(f"{name} does not go with --on ray; leave it out (docs/serve.md)")


def address_of(settings: Settings) -> tuple[socket.AddressFamily, tuple]:
    """Return the family and the address to listen on.

    Args:
        settings: the settings.

    Raises:
        UserError: the host is none.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no name"
        raise UserError(f"--host {settings.host!r:.80}: {reason}; give an address of this machine") from None
    return found[0][0], found[0][4]


def bound(settings: Settings, port: int, several: bool) -> socket.socket:
    """Return a socket that is bound to the address and does not listen yet.

    Args:
        settings: the settings.
        port: the port.
        several: whether several processes share the port (SO_REUSEPORT).

    Raises:
        UserError: the port is taken, or may not be used.
    """
    family, address = address_of(settings)
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if several:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((address[0], port, *address[2:]))
    except OSError as error:
        made.close()
        raise taken(settings, port, error) from None
    return made


def taken(settings: Settings, port: int, error: OSError) -> UserError:
    """Return the error for a port that cannot be listened on.

    Args:
        settings: the settings.
        port: the port.
        error: what the system says.
    """
    name = "--grpc-port" if port and port == settings.grpc_port else "--port"
    return UserError(f"cannot listen on {settings.host} port {port}: {error.strerror}; choose another {name}")


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return what TLS needs; None without a certificate.

    Args:
        settings: the settings.

    Raises:
        UserError: certificate or key cannot be read, or do not belong together.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, settings)
    return context


def load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """Read certificate and key into a context; connections that are open keep the former ones.

    Args:
        context: what is changed.
        settings: the settings, with a certificate.

    Raises:
        UserError: see `tls_context`.
    """
    cert, key = str(settings.tls_cert), settings.tls_key
    try:
        for name in (cert, str(key)):
            Path(name).read_bytes()
        context.load_cert_chain(cert, key, password="")  # an encrypted key is an error, and not a question
    except (OSError, ValueError) as error:
        one = error.filename if isinstance(error, OSError) and error.filename else f"{cert} with {key}"
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "wrong content"
        raise UserError(f"cannot read {one}: {reason}; expected a PEM certificate and its key, unencrypted") from None


def raise_file_limit(connections: int) -> None:
    """Let this process open as many files as its connections need.

    Args:
        connections: most connections.

    Raises:
        UserError: the system does not allow it.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise UserError(f"this process may open {hard} files, and needs {wanted}; lower --max-connections")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def content(handle: int) -> bytes:
    """Return the content of an open file, from its beginning, whoever else reads it.

    Args:
        handle: the file.
    """
    return os.pread(handle, os.fstat(handle).st_size, 0)
