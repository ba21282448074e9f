"""What needs more memory than there is, is refused before any work, in one line with the estimate."""

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import evaluated
import toy
from commands import TRAIN, answer, state_of
from splitveil import cli, memory
from splitveil.attacks.base import Attack, Extent, Victim, check_memory
from splitveil.attacks.linear import LinearAttack
from splitveil.config import Spec
from splitveil.data import Access
from splitveil.defenses.base import Stack
from splitveil.errors import UserError
from splitveil.evaluation import stage
from splitveil.recipe import Recipe
from splitveil.registry import Registry
from splitveil.runs import Run
from splitveil.training.loop import Training

TASK: dict[str, Any] = {"answered": 256, "classes": 10, "noisy": True}
WIDE = Extent(wire=(64, 16, 16), image=(3, 64, 64), images=10**6, encoder=10_000_000, **TASK)
"""A task as on ImageNet with 64 pixels."""

ATTACKS = [
    ("latent:samples=1000000", "samples"),
    ("latent:network=dense_normN200C4096", "size or network"),
    ("latent:draws=1000000", "draws"),
    ("rmle:draws=100000", "draws"),
    ("rmle:tuning=1000000", "tuning"),
    ("map:width=100000", "width"),
    ("map:draws=100000", "draws"),
    ("map:tuning=1000000", "tuning"),
    ("diffusion:samples=1000000", "samples"),
    ("diffusion:batch_size=1000000", "width or batch_size"),
    ("deep_prior:width=100000", "width"),
    ("deep_prior:draws=1000000", "draws"),
    ("decoder:batch_size=1000000", "network or batch_size"),
    ("decoder:network=conv_normN256C4096", "network"),
    ("confidence:network=dense_normN200C4096", "network"),
    ("gan:width=100000", "width"),
    ("gan:warm_batch_size=1000000", "network or batch_size"),
    ("shadow:batch_size=1000000", "network or batch_size"),
    ("refine:tuning=1000000,start=linear", "tuning"),
    ("refine:batch_size=1000000", "network or batch_size"),
    ("nearest:neighbors=50000", "neighbors"),
    ("residual:channels=100000", "channels"),
    ("residual:batch_size=1000000", "channels or batch_size"),
]


@pytest.fixture
def small(monkeypatch):
    """A machine of 24 GiB, whichever runs the tests."""
    monkeypatch.setattr(memory, "capacity", lambda device="cpu": 24 * 2**30)


@pytest.mark.parametrize(("text", "named"), ATTACKS)
def test_each_parameter_that_fills_the_memory_is_named(small, text, named):
    spec = Spec.model_validate(text)
    needs = spec.make("attacks").memory(WIDE)
    with pytest.raises(UserError, match=rf"^{spec.name}: {named} would take about [\d,]+ GiB of memory, and this "):
        memory.check(spec.name, needs, "cpu")


@pytest.mark.parametrize(("looks", "images"), [(1000, 50), (1, 50_000)])
def test_the_smaller_space_of_a_regression_counts(small, looks, images):
    wire = (64, 32, 32)
    needs = LinearAttack(looks).memory(replace(WIDE, wire=wire, images=images))
    assert needs["looks or attacker images"] >= 8 * 5 * min(looks * images, math.prod(wire)) ** 2
    with pytest.raises(UserError, match="lower looks or attacker images"):
        memory.check("linear", needs, "cpu")
    memory.check("linear", LinearAttack(1).memory(replace(WIDE, wire=wire, images=50)), "cpu")


@pytest.mark.parametrize("name", Registry("attacks").names())
def test_the_defaults_of_every_attack_fit_a_laptop(small, name):
    usual = Extent(wire=(8, 8, 8), image=(3, 32, 32), images=5000, encoder=1_100_000, **TASK)
    memory.check(name, Spec.model_validate(name).make("attacks").memory(usual), "cpu")


@pytest.mark.parametrize(
    "text", ["latent:samples=1000000", "decoder:network=conv_normN256C4096", "diffusion:samples=1000000"]
)
def test_the_command_refuses_before_it_begins(finished_run, small, text):
    before = state_of(finished_run)
    many = ["--observed", "1"] if "latent" not in text else ["--observed", "1000000000"]
    for more in ([], ["--dry-run"]):
        code, error = answer("attack", finished_run, "--attack", "linear", "--attack", text, *many, *more)
        assert code == 2
        assert error.count("\n") == 1
        assert "GiB of memory, and this machine has 24; lower" in error
    assert state_of(finished_run) == before


@pytest.mark.parametrize(
    "flags",
    [
        ["--defense", "adversarial:network=res_normN256C4096"],
        ["--defense", "adversarial_noise:network=conv_normN256C4096"],
        ["--defense", "gaussian:0.1", "--defense", "cem:clusters=1000000", "--epochs", "2"],
        ["--defense", "sparse_coding_released:atoms=1000000", "--bottleneck", "32"],
        ["--defense", "sparse_coding:form=dense,atoms=1000000,wire=reconstruction", "--bottleneck", "32"],
        ["--defense", "shredder:size=1000000", "--bottleneck", "32"],
        ["--crop-padding", "10000", "--rotate", "0"],
    ],
)
def test_a_training_that_does_not_fit_leaves_nothing(small, tmp_path, flags):
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    base = [part for pair in zip(TRAIN[::2], TRAIN[1::2], strict=True) if pair[0] not in given for part in pair]
    code, error = answer("train", *base, *flags, "--out", tmp_path / "run")
    assert code == 2
    assert error.count("\n") == 1
    assert "GiB of memory, and this machine has 24; lower" in error
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("text", ["hsic", "nopeek"])
def test_the_matrices_of_a_whole_set_as_one_batch_are_counted(small, text):
    defense = Spec.model_validate(text).make("defenses")
    with pytest.raises(UserError, match=rf"^training: {text}:batch_size would take about 56 GiB"):
        memory.check("training", Stack(defense).memory(50_000, (8, 8, 8), 10), "cpu")
    memory.check("training", Stack(defense).memory(1024, (8, 8, 8), 10), "cpu")


def test_the_batch_and_the_processes_of_a_training_are_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "capacity", lambda device="cpu": 2**25)
    code, error = answer("train", *TRAIN, "--out", tmp_path / "run")
    assert (code, "the training: batch_size would take about" in error) == (2, True)
    monkeypatch.setattr(memory, "capacity", lambda device="cpu": 2**31)
    with pytest.raises(UserError, match="about 3 GiB"):
        memory.check("training", {"batch_size": 2**30}, "cpu", processes=3)


def test_a_container_has_what_its_limit_says(monkeypatch, tmp_path):
    whole = memory.capacity() or 0
    (tmp_path / "limit").write_text("1000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none", tmp_path / "absent"))
    assert (memory.capacity() or 0) >= whole
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none", tmp_path / "limit"))
    assert memory.capacity() == 1_000_000


def test_what_a_network_keeps_is_what_autograd_saves():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.ReLU())
    found = memory.trained("width", lambda: network, 7, 3, 8, 8)
    weights = 4 * 4 * 5 * 3 * 9
    # The convolution keeps its input, the ReLU its output.
    assert found == {"width": weights, "width or batch_size": weights + 4 * 7 * (3 * 64 + 5 * 36)}


def test_an_attack_counts_what_the_attacks_that_it_holds_need(monkeypatch):
    monkeypatch.setattr(memory, "capacity", lambda device="cpu": 2**30)

    class Held(Attack):
        fit = reconstruct = None  # type: ignore[assignment]

        def __init__(self, text):
            self.first = Spec.model_validate(text).make("attacks")

    victim = Victim(toy.model(24, 0.1)[0], frozenset(Access))
    check_memory("held", Held("latent"), victim, toy.images(40, 3), 10)
    with pytest.raises(UserError, match="held: draws would take"):
        check_memory("held", Held("latent:draws=1000000,samples=2"), victim, toy.images(40, 3), 10)


def test_a_tensor_that_is_larger_than_the_memory_is_never_made(small):
    with pytest.raises(UserError, match=r"^net: a tensor of 100000×100000 numbers would take"), memory.Limited("net"):
        nn.Linear(100_000, 100_000)
    with memory.Limited("net"):
        assert torch.equal(nn.Linear(3, 5)(torch.zeros(1, 3)).new_zeros(2), torch.zeros(2))


@pytest.mark.parametrize("make", [lambda: torch.empty(2**60), lambda: bytearray(2**62)])
def test_memory_that_is_used_up_after_all_is_one_line(monkeypatch, capsys, make):
    def command(*args, **kwargs):
        make()

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["list"])
    error = capsys.readouterr().err
    assert error.startswith("splitveil: out of memory (")
    assert error.count("\n") == 1


@pytest.fixture
def small_gpu(monkeypatch):
    """A GPU of a few bytes beside a large machine, on which nothing may be put."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory, "capacity", lambda device="cpu": 1000 if torch.device(device).type == "cuda" else 2**40)

    def to(self, *args, **kwargs):
        assert not any(str(one).startswith("cuda") for one in (*args, *kwargs.values())), "memory was taken"
        return self

    monkeypatch.setattr(nn.Module, "to", to)


@pytest.mark.parametrize("ask", [stage.set_up, lambda run, spec, *more: stage.check(run, [spec], *more)])
def test_what_a_gpu_cannot_hold_is_refused_before_anything_is_put_there(evaluated_folder, small_gpu, ask):
    """The network was moved first, and a suite asked whether the processor could make its attacks."""
    spec, threat = Spec.model_validate("linear"), stage.ThreatModel("train_time")
    with pytest.raises(UserError, match=r"^linear: attacker images would take about .* and the GPU has 0; lower"):
        ask(Run.open(evaluated_folder), spec, evaluated.IMAGES, threat)


def test_a_network_that_a_gpu_cannot_hold_is_refused_before_it_is_put_there(small_gpu):
    network = nn.Linear(20, 20)
    with pytest.raises(UserError, match=r"^the network: width or number of its layers would take .* and the GPU has 0"):
        memory.placed(network, "cuda")
    assert memory.placed(network, "cpu") is network


def test_a_training_that_a_gpu_cannot_hold_is_refused_before_anything_is_put_there(small_gpu):
    model = toy.defended("gaussian:0.1")
    gpu = SimpleNamespace(device=torch.device("cuda"), world_size=1)
    with pytest.raises(UserError, match=r"^the training: number or size of the training images would take .* the GPU"):
        Training(model, toy.images(50, 1), None, Recipe(epochs=2), 10, gpu)  # type: ignore[arg-type]


def test_no_network_is_put_on_a_device_unchecked():
    source = Path(memory.__file__).parent
    unchecked = [
        path.name for path in source.rglob("*.py") if re.search(r"\.to\([^)]*device, memory_format", path.read_text())
    ]
    assert sorted(unchecked) == ["fastconv.py", "memory.py"]  # decoders, which `Attack.memory` counts; `placed`
