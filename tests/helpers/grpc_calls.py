"""Requests over gRPC to the model of `small_bundle`, and a door in this process."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import grpc
import numpy as np

import small_bundle
from splitveil.serving import inference_pb2 as pb
from splitveil.serving import rpc
from splitveil.serving.limits import Limits
from splitveil.serving.metrics import Log
from splitveil.serving.service import Service
from splitveil.serving.settings import Settings


def expected(wires):
    """Return the logits that the model answers."""
    weights = np.random.default_rng(1).normal(size=(small_bundle.SENT, 3)).astype(np.float32)
    return (small_bundle.LOW + np.float32(small_bundle.STEP) * wires.astype(np.float32)) @ weights


def some(count, seed=0):
    """Return random wires."""
    return np.random.default_rng(seed).integers(0, 256, (count, small_bundle.SENT), dtype=np.uint8)


def request(bundle, wires, **more) -> Any:
    """Return a request whose data are raw."""
    made = pb.ModelInferRequest(model_name=bundle.model_name, **more)
    made.inputs.add(name="wire", datatype="UINT8", shape=wires.shape)
    made.raw_input_contents.append(wires.tobytes())
    return made


async def call(channel, method, message: Any = b"", **more) -> Any:
    """Return the answer, or the code and what is said of it."""
    message = message if isinstance(message, bytes) else message.SerializeToString()
    try:
        return await channel.unary_unary(f"/{rpc.SERVICE}/{method}")(message, timeout=60, **more)
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details()


def logits(answer):
    """Return the logits of an answer."""
    found = pb.ModelInferResponse.FromString(answer)
    return np.frombuffer(found.raw_output_contents[0], "<f4").reshape(list(found.outputs[0].shape))


def run(bundle, work, limits=None, users=None, model=None, closing=False):
    """Run ``work(channel, service)`` against a door in this process, which may be closing; return what it logged."""
    out = io.StringIO()

    async def main():
        service = Service(bundle, limits or Limits(), users, log=Log(out), run=model)
        door = rpc.Door(service, Settings("b", grpc_port=0))
        await door.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel:
            if closing:
                service.draining = True
                await asyncio.gather(work(channel, service), door.stop(1))
            else:
                await work(channel, service)
        await door.stop(1)
        service.close()
        assert service.active == 0

    asyncio.run(main())
    return [json.loads(line) for line in out.getvalue().splitlines()]
