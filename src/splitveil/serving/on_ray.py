"""The door for HTTP in replicas of Ray Serve, for more than one machine: the same application, limits and tokens.

Ray brings the bundle to each replica, spreads the requests, and starts a replica again that has died. Its proxy owns
the connections, so that their limits (number, headers, idle time) and the metrics are Ray's.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..deploy import bundle
from ..errors import UserError
from .app import Application, app
from .service import Service
from .settings import Settings
from .tokens import Tokens

NAME = "splitveil"
"""Name of the application in Ray Serve."""
ONGOING = 256
"""Most requests that a replica answers at once; what comes above waits at the proxy."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray reports how it is used to its makers, unless told not to
    "RAY_SERVE_ENABLE_HA_PROXY": "1",  # two to five times the requests of Ray's proxy in Python
}
"""Variables that are set for a cluster of our own, where they are not."""


def run(settings: Settings, ready: Callable[[], None]) -> int:
    """Serve on a Ray cluster until SIGTERM or SIGINT; return the exit code.

    ``RAY_ADDRESS`` names the cluster; without it, one begins on this machine and ends with the server.

    Args:
        settings: checked settings, with a number of replicas.
        ready: called when all replicas answer.

    Raises:
        UserError: no Ray Serve, no cluster, or not enough processors for the replicas.
    """
    own = not os.environ.get("RAY_ADDRESS")
    for name, value in ENVIRONMENT.items() if own else ():
        os.environ.setdefault(name, value)
    ray, serve = _packages()
    stopping = threading.Event()
    _connect(ray, settings)
    try:
        _check_room(ray, settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        _deploy(serve, settings)
        if not stopping.is_set():
            ready()
        stopping.wait()
        serve.delete(NAME)
        if own:
            serve.shutdown()
    finally:
        ray.shutdown()
    return 0


def application(settings: Settings) -> Application:
    """Return the application of a replica, whose working folder is the cloud part of the bundle.

    Args:
        settings: settings of the server.
    """
    tokens = Tokens(settings.token_file) if settings.token_file is not None else None
    service = Service(bundle.read("."), settings.limits, tokens)
    if tokens and tokens.error:
        service.log.write("tokens", error=tokens.error)
    return app(service)


def _packages() -> tuple[Any, Any]:
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise UserError(f"--on ray needs the package {error.name}; pip install 'splitveil[ray-serve]'") from None
    return ray, serve


def _connect(ray: Any, settings: Settings) -> None:
    folder = Path(settings.bundle)
    cloud = folder / "cloud" if (folder / "cloud").is_dir() else folder
    try:
        ray.init(
            runtime_env={"working_dir": str(cloud.resolve())},
            namespace=NAME,
            log_to_driver=False,
            include_dashboard=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        where = os.environ.get("RAY_ADDRESS") or "on this machine"
        raise UserError(f"no Ray cluster {where}: {reason}; begin one with `ray start --head`") from None


def _check_room(ray: Any, settings: Settings) -> None:
    there = int(ray.cluster_resources().get("CPU", 0))
    if there < (settings.replicas or 0):
        raise UserError(f"--replicas {settings.replicas} take a processor each, and the Ray cluster has {there}")


def _deploy(serve: Any, settings: Settings) -> None:
    """Start the replicas and wait for them."""
    limits = settings.limits

    def build() -> Application:
        from splitveil.serving import on_ray

        return on_ray.application(settings)

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        http_options={
            "host": settings.host,
            "port": settings.port,
            "ssl_certfile": settings.tls_cert,
            "ssl_keyfile": settings.tls_key,
            "request_timeout_s": limits.body_seconds + limits.answer_seconds + 1,
        }
    )
    replica = serve.deployment(serve.ingress(build)()).options(
        name=NAME,
        num_replicas=settings.replicas,
        max_ongoing_requests=ONGOING,
        max_queued_requests=limits.max_queue,
        graceful_shutdown_timeout_s=limits.drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        ray_actor_options={"num_cpus": 1},
    )
    try:
        serve.run(replica.bind(), name=NAME, route_prefix="/")
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Ray could not start the replicas ({reason}); see the logs of Ray Serve") from None
