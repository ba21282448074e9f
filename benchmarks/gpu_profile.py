"""Where the time of a training step goes on a GPU: eager, compiled and captured, and against the matrix rate."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from splitveil import config, data, zoo
from splitveil.recipe import precision
from splitveil.training.fabric import fabric_of
from splitveil.training.trainer import Trainer


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def milliseconds(step: Callable[[], object], count: int) -> float:
    """Median wall time of a step, after a warm-up."""
    for _ in range(3):
        step()
    times = []
    for _ in range(5):
        synchronize()
        start = time.perf_counter()
        for _ in range(count):
            step()
        synchronize()
        times.append((time.perf_counter() - start) / count)
    return 1e3 * sorted(times)[2]


def kernel_milliseconds(step: Callable[[], object], count: int) -> float | None:
    """Time in kernels of a step; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(count):
            step()
        synchronize()
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e3 / count


def matrix_rate(device: torch.device) -> float:
    """Floating-point operations per second of a matrix product, in bf16 where the hardware has it."""
    n = 8192 if device.type == "cuda" else 512
    kind = torch.bfloat16 if precision("auto", device) == "bf16-mixed" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    return 2 * n**3 / (milliseconds(lambda: a @ b, 10) / 1e3)


def our_step(images: data.ImageSet, network: dict[str, Any], batch: int, *defense: str) -> Callable[[], object]:
    """A step of the training loop, augmentation and hooks included."""
    settings = config.parse({"data": images.name, **network, "recipe": "fast", "defense": defense, "batch_size": batch})
    fabric = fabric_of(settings.resolve())
    made = Trainer(settings.resolve(), images, Path(tempfile.mkdtemp()), fabric)
    if made.stack.wants_features:
        from splitveil.defenses.base import Features

        with torch.no_grad():
            z, y = made._extract()
        made.stack.refit(0, Features(z, y, 10, torch.Generator(fabric.device).manual_seed(0)))
    made.forward.train()
    index = torch.arange(batch, device=fabric.device) % len(made.train)
    rng = torch.Generator(fabric.device).manual_seed(0)
    return lambda: made._step(index, rng, 0.6, None)


class Plain:
    """The same network and noise in an ordinary loop, for compiling and capturing."""

    def __init__(self, net: dict[str, Any], device: torch.device, batch: int):
        bottleneck = zoo.Bottleneck(net["bottleneck"])
        parts = zoo.build(net["arch"], cut=net["cut"], classes=10, image_size=32, bottleneck=bottleneck)
        network = nn.Sequential(parts.encoder, Noise(), parts.tail)
        self.network: Any = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        on_gpu = device.type == "cuda"
        rate: Any = torch.tensor(0.1, device=device) if on_gpu else 0.1
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), rate, momentum=0.9, nesterov=True, fused=on_gpu or None
        )
        self.x = torch.rand(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
        self.y = torch.randint(10, (batch,), device=device)
        self.device, self.forward = device, self.network
        self.bf16 = precision("auto", device) == "bf16-mixed"

    def step(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = cross_entropy(self.forward(self.x).float(), self.y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def compiled(self) -> Callable[[], object]:
        self.forward = torch.compile(self.network)
        return self.step

    def captured(self) -> Callable[[], object]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


class Noise(nn.Module):
    """The wire's noise."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z + 0.025 * torch.randn_like(z)


def measure(
    images: data.ImageSet, network: dict[str, Any], batches: tuple[int, ...], count: int, *, compiled: bool = True
) -> dict[str, Any]:
    """Rows of step, batch, milliseconds, time in kernels, images per second and share of the matrix rate."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rate, rows = matrix_rate(device), []
    for batch in batches:
        plain = Plain(network, device, batch)
        with FlopCounterMode(display=False) as counter:
            plain.step()
        work = counter.get_total_flops()
        steps: dict[str, Callable[[], Callable[[], object]]] = {
            "ours, gaussian": lambda batch=batch: our_step(images, network, batch, "gaussian:0.025"),
            "ours, gaussian + cem": lambda batch=batch: our_step(images, network, batch, "gaussian:0.025", "cem:16"),
            "plain, eager": lambda plain=plain: plain.step,
        }
        if device.type == "cuda":
            steps["plain, captured"] = lambda batch=batch: Plain(network, device, batch).captured()
        if device.type == "cuda" and compiled:  # which alone takes longer than all the others
            steps["plain, compiled"] = lambda batch=batch: Plain(network, device, batch).compiled()
        for name, make in steps.items():
            try:
                step = make()
                wall, kernels = milliseconds(step, count), kernel_milliseconds(step, count)
            except Exception as error:  # one variant that this version of torch lacks does not end the profile
                rows.append({"step": name, "batch": batch, "failed": f"{type(error).__name__}: {error}"[:300]})
                continue
            row = {"step": name, "batch": batch, "milliseconds": round(wall, 3)}
            row |= {"kernel_milliseconds": kernels and round(kernels, 3)}
            row |= {"images_per_second": round(1e3 * batch / wall)}
            rows.append(row | {"share_of_matrix_rate": round(work / (wall / 1e3) / rate, 4)})
    return {"matrix_teraflops": round(rate / 1e12, 1), "steps": rows}
