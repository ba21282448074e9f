"""The door for gRPC: the Open Inference Protocol v2, on the service, the checks and the limits of the door for HTTP.

Requests come as bytes and as streams of one message, which is the same on the network: so a token is looked at before
the message is read, a message that comes too slowly is given up, and one that cannot be parsed is told so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message

from . import inference_pb2 as pb
from .limits import Limits
from .refusals import Gone, Kind, Refusal
from .served import SERVER, VERSION, Served, Tensor, check_id
from .service import Entry, Service
from .settings import Settings, address_of

SERVICE = "inference.GRPCInferenceService"
STREAMS = 128
"""Most requests at once on a connection; a client waits before it sends more."""
OLDEST = 600.0
"""Seconds after which a connection is closed, between two requests: its client opens another one, which may meet
another worker."""
HELD = 0.2
"""Seconds in which a client that goes on asking has sent its next request, or has read that the server stops."""
SETTLES = 0.05
"""Seconds in which a request without a message is canceled if its client has left, or if gRPC has refused its message
as too long: both look alike from here, and count as gone."""
CONTENTS = {"UINT8": "uint_contents", "FP32": "fp32_contents"}
"""Where a message holds numbers that are not raw, by type; there is no place for others."""
Context = Any  # grpc.aio.ServicerContext, generic in its stubs only
Method = Callable[[AsyncIterator[bytes], Context], Awaitable[bytes]]


def options(limits: Limits, most_bytes: int, several: bool) -> list[tuple[str, int]]:
    """Return the limits as gRPC takes them.

    Args:
        limits: limits of the server.
        most_bytes: most bytes of a message.
        several: whether several processes share the port.
    """
    return [
        ("grpc.so_reuseport", int(several)),  # on by default, so that two servers would share a port unnoticed
        ("grpc.max_receive_message_length", most_bytes),
        ("grpc.max_metadata_size", limits.max_head),
        ("grpc.absolute_max_metadata_size", limits.max_head),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.server_handshake_timeout_ms", int(1000 * limits.head_seconds)),
        ("grpc.max_connection_idle_ms", int(1000 * limits.idle_seconds)),
        ("grpc.max_connection_age_ms", int(1000 * OLDEST)),
        ("grpc.max_connection_age_grace_ms", int(1000 * (limits.body_seconds + limits.answer_seconds))),
        ("grpc.keepalive_time_ms", int(1000 * limits.idle_seconds)),  # finds clients that vanished amid a request
        ("grpc.keepalive_timeout_ms", int(1000 * limits.answer_seconds)),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a small message must not become a large one
        ("grpc.http2.bdp_probe", 0),  # it lets a connection's buffers grow
    ]


class Certificate:
    """The certificate that gRPC asks for at each handshake; it is handed over when it is new.

    Args:
        cert: PEM file of the certificate and its chain.
        key: PEM file of its key.
    """

    def __init__(self, cert: str, key: str):
        self._cert, self._key = Path(cert), Path(key)
        self._new: grpc.ServerCertificateConfiguration | None = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read the files, for handshakes from now on, and return what they hold.

        Raises:
            OSError: they cannot be read.
        """
        pair = self._key.read_bytes(), self._cert.read_bytes()
        self._new = grpc.ssl_server_certificate_configuration([pair])
        return self._new

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        """Return a new certificate; None: the former one holds."""
        found, self._new = self._new, None
        return found


class Door:
    """A server of gRPC; make it within the event loop that runs it.

    Args:
        service: what answers.
        settings: where it listens, and with which certificate.

    Raises:
        RuntimeError: the port is taken.
    """

    def __init__(self, service: Service, settings: Settings):
        limits, methods = service.limits, _Methods(service)
        self._methods = methods
        self._server = grpc.aio.server(
            options=options(limits, service.most_bytes, settings.workers > 1),
            maximum_concurrent_rpcs=2 * methods.most,  # those above half of it are told to come again
        )
        handlers = {name: grpc.stream_unary_rpc_method_handler(one) for name, one in methods.all.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._certificate: Certificate | None = None
        address = replace(settings, host=address_of(settings)[1][0]).address(settings.grpc_port or 0)
        if settings.tls_cert is None:
            self.port: int = self._server.add_insecure_port(address)
            return
        self._certificate = Certificate(settings.tls_cert, str(settings.tls_key))
        credentials = grpc.dynamic_ssl_server_credentials(self._certificate.read(), self._certificate)  # type: ignore[arg-type]
        self.port = self._server.add_secure_port(address, credentials)

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    def read_certificate(self) -> None:
        """Read the certificate again, for connections from now on."""
        if self._certificate is not None:
            self._certificate.read()

    async def stop(self, grace: float) -> None:
        """Close the door, and the connections when their requests are answered.

        gRPC cancels the requests that reach it between its decision to stop and the client's notice of it. So each
        client's next request is held until that notice has gone out, and is then told to go elsewhere.

        Args:
            grace: seconds after which they are cut.
        """
        self._methods.leaving = asyncio.Event()
        await asyncio.sleep(HELD)
        closing = asyncio.ensure_future(self._server.stop(grace))
        await asyncio.sleep(HELD)
        self._methods.leaving.set()
        await closing


class _Methods:
    """The methods of the service, by their names."""

    def __init__(self, service: Service):
        self._service = service
        self.most = service.limits.max_queue + service.limits.max_batch
        """Most requests at once; each has at least one image, so that more could not wait in the queue."""
        self._active = 0
        self.leaving: asyncio.Event | None = None
        """Set when clients have been told that the server stops; None before it does."""
        self.all: dict[str, Method] = {
            "ServerLive": self._plain(pb.ServerLiveRequest, self._server_live, everybody=True),
            "ServerReady": self._plain(pb.ServerReadyRequest, self._server_ready, everybody=True),
            "ModelReady": self._plain(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": self._plain(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": self._plain(pb.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": self._infer,
        }

    def _plain(self, kind: type[Message], answer: Callable[[Any], Message], everybody: bool = False) -> Method:
        """Return a method that asks for no inference."""

        async def method(_: AsyncIterator[bytes], context: Context) -> bytes:
            service, entry = self._service, Entry()
            self._active += 1
            try:
                self._check_room()
                if not everybody:
                    service.caller(_authorization(context))
                found = answer(parsed(kind, await self._message(context, entry)))
            except Exception as error:
                why = service.refusal(error, entry)
                service.metrics.rejected(why.kind.name)
            else:
                service.metrics.other(200)
                return found.SerializeToString()
            finally:
                self._active -= 1
            service.metrics.other(why.kind.http)
            return await _abort(context, why)

        return method

    def _server_live(self, request: Any) -> Message:
        return pb.ServerLiveResponse(live=True)

    def _server_ready(self, request: Any) -> Message:
        return pb.ServerReadyResponse(ready=self._service.ready)

    def _model_ready(self, request: Any) -> Message:
        self._service.served.check_model(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._service.ready)

    def _server_metadata(self, request: Any) -> Message:
        return pb.ServerMetadataResponse(**SERVER)

    def _model_metadata(self, request: Any) -> Message:
        self._service.served.check_model(request.name, request.version)
        return pb.ModelMetadataResponse(**self._service.served.metadata())

    async def _infer(self, _: AsyncIterator[bytes], context: Context) -> bytes:
        service, entry = self._service, Entry()
        why: Refusal | Gone | None = None
        service.active += 1
        self._active += 1
        try:
            return await self._inferred(context, entry)
        except asyncio.CancelledError:
            why = Gone()
            raise
        except Exception as error:
            why = service.refusal(error, entry)
        finally:
            self._active -= 1
            service.active -= 1
            service.finished(entry, why)
        return await _abort(context, why)

    async def _inferred(self, context: Context, entry: Entry) -> bytes:
        service = self._service
        if service.draining and self.leaving:
            await self.leaving.wait()
        service.check_ready()
        self._check_room()
        entry.token = service.caller(_authorization(context))
        request = parsed(pb.ModelInferRequest, await self._message(context, entry))
        service.served.check_model(request.model_name, request.model_version)
        entry.id = check_id(request.id)
        names = asked(service.served, request)
        wires = service.served.wire(tensors(request))
        outputs = await service.answer(wires)
        entry.images = len(wires)
        return answered(service.served, request, entry.id, names, outputs).SerializeToString()

    def _check_room(self) -> None:
        if self._active > self.most:
            raise Refusal(Kind.busy)

    async def _message(self, context: Context, entry: Entry) -> bytes:
        """Return the only message of a request."""
        try:
            async with asyncio.timeout(self._service.limits.body_seconds):
                found = await context.read()
        except TimeoutError:
            raise Refusal(Kind.slow_request) from None
        if found is grpc.aio.EOF:  # type: ignore[attr-defined]
            await asyncio.sleep(SETTLES)
            raise Refusal(Kind.malformed, "the request has no message")
        entry.bytes = len(found)
        return found


def parsed(kind: type[Message], message: bytes) -> Any:
    """Return a message as an object.

    Args:
        kind: what it should be.
        message: its bytes.

    Raises:
        Refusal: it is none.
    """
    try:
        return kind.FromString(message)
    except DecodeError:
        raise Refusal(Kind.malformed, f"the message is no {kind.DESCRIPTOR.name}") from None


def tensors(request: Any) -> list[Tensor]:
    """Return the inputs of a request, not checked yet.

    Args:
        request: a ``ModelInferRequest``.

    Raises:
        Refusal: they and their data do not belong together.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Refusal(Kind.malformed, f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    found = []
    for place, one in enumerate(request.inputs):
        _refuse_shared_memory(one.parameters)
        if raw and one.HasField("contents"):
            raise Refusal(Kind.malformed, "an input needs either contents or raw_input_contents")
        field = CONTENTS.get(one.datatype)
        if not raw and field is None:
            raise Refusal(Kind.malformed, "contents of this datatype are not taken; send raw_input_contents")
        content = raw[place] if raw else list(getattr(one.contents, str(field)))
        found.append(Tensor(one.name, one.datatype, list(one.shape), content))
    return found


def asked(served: Served, request: Any) -> set[str]:
    """Return the names of the outputs that a request asks for, all where it names none.

    Args:
        served: the model.
        request: a ``ModelInferRequest``.

    Raises:
        Refusal: an output that does not exist, or a form in which outputs are not sent.
    """
    for one in request.outputs:
        served.check_output(one.name)
        _refuse_shared_memory(one.parameters)
        if "classification" in one.parameters:
            raise Refusal(Kind.malformed, "classification is not offered; take the largest logit")
    return {one.name for one in request.outputs} or {name for name, _ in served.outputs}


def answered(served: Served, request: Any, name: str, names: set[str], outputs: Sequence[np.ndarray]) -> Message:
    """Return the answer to a request: raw if its inputs were raw, or named none.

    Args:
        served: the model.
        request: a ``ModelInferRequest``.
        name: its id.
        names: outputs that it asks for.
        outputs: outputs of the model, (B, ...) each.
    """
    made = pb.ModelInferResponse(model_name=served.model, model_version=VERSION, id=name)
    for (output, _), values in zip(served.outputs, outputs, strict=True):
        if output not in names:
            continue
        about = made.outputs.add(name=output, datatype="FP32", shape=values.shape)
        if request.raw_input_contents:
            made.raw_output_contents.append(values.astype("<f4", copy=False).tobytes())
        else:
            about.contents.fp32_contents.extend(values.ravel().tolist())
    return made


def _refuse_shared_memory(parameters: Any) -> None:
    if "shared_memory_region" in parameters:
        raise Refusal(Kind.malformed, "shared memory is not offered; send the data")


def _authorization(context: Context) -> str | None:
    """Return what stands in the metadata under ``authorization``."""
    found = None
    for name, value in context.invocation_metadata() or ():
        if name == "authorization" and isinstance(value, str):
            found = value
    return found


async def _abort(context: Context, why: Refusal | Gone | None) -> bytes:
    """Answer with a status; it raises, so that nothing else is sent."""
    assert isinstance(why, Refusal)
    await context.abort(grpc.StatusCode[why.kind.grpc], str(why))
    raise AssertionError("aborted")
