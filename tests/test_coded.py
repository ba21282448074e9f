"""Runs whose wire is sent by a codec: attacks see what is really sent, and it is what an export sends."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from commands import answer
from splitveil import runs
from splitveil.attacks._white_box import WhiteBox
from splitveil.attacks.base import Victim
from splitveil.bounds.base import Channel
from splitveil.bounds.linkage import Linkage
from splitveil.bounds.pairwise import PairwiseBound
from splitveil.coded import coded_run
from splitveil.data import Access
from splitveil.defenses._codec_choice import fit
from splitveil.defenses._law import law_of
from splitveil.defenses.base import Stack
from splitveil.defenses.codec import Codec, codec_of
from splitveil.defenses.waterfill import Waterfill
from splitveil.errors import UserError
from splitveil.hardening.search import staying
from splitveil.model import SplitModel
from splitveil.training.loop import check_epochs
from toy import images, model, rng


@pytest.fixture
def run(small, small_run, tmp_path) -> runs.Run:
    return runs.Run.open(shutil.copytree(small_run, tmp_path / "run"))


def behind(defense: SplitModel, bits: int = 4) -> SplitModel:
    """The same model, whose wire is sent by a grid that fits it."""
    codec = Codec(f"uint{bits}")  # type: ignore[arg-type]
    parts: list[Any] = list(defense.defense) if isinstance(defense.defense, Stack) else [defense.defense]
    about: dict[str, Any] = {"layout": "channels_first", "example": torch.rand(1, 3, 4, 4)}
    coded = SplitModel(defense.encoder, defense.tail, defense=[*parts, codec], **about)
    part = parts[-1]
    x = torch.rand(500, 3, 4, 4, generator=rng())
    z = coded.features(x)
    sent = part.sent(z, rng(1)) if isinstance(part, Waterfill) else coded.protect(z, rng(1))
    codec.set_grid(fit(sent.detach(), bits))
    return coded.eval().requires_grad_(False)


def test_the_attacked_run_sends_what_the_codec_says(run):
    before = run.digest()
    assert answer("attack", run.path, "--codec", "uint4", "--attack", "linear:looks=1", "--attacked", "8")[0] == 0
    folder = run.path / "coded" / "uint4"
    coded = runs.Run.open(folder)
    digits = runs.load_images(run.settings)
    wires = coded.model(digits).encode(digits.test.images.float() / 255, rng())
    assert max(len(values.unique()) for values in wires.movedim(1, 0)) <= 16
    assert coded.summary["wire"]["bytes"] == wires[0].numel() // 2
    assert coded.summary["coding"]["weights"] == run.digest() == before
    assert (folder / "attacks" / "linear" / "summary.json").is_file()
    assert not (run.path / "attacks" / "linear@uint4").exists()


def test_it_is_made_once_and_again_for_other_weights(run):
    digits = runs.load_images(run.settings)
    first = coded_run(run, digits, "uint8")
    stamp = (first.path / "summary.json").stat().st_mtime_ns
    assert coded_run(run, digits, "uint8").summary == first.summary
    assert (first.path / "summary.json").stat().st_mtime_ns == stamp
    assert coded_run(first, digits, "auto") is first
    with pytest.raises(UserError, match=r"codec uint2, but the wire of .* is sent by uint8 already"):
        coded_run(first, digits, "uint2")
    changed = run.model(digits)
    next(changed.tail.parameters()).data.mul_(2)
    runs.save_weights(changed, run.path / "model.safetensors")
    runs.write_summary(run.path, run.summary)
    run = runs.Run.open(run.path)
    assert coded_run(run, digits, "uint8").summary["coding"]["weights"] == run.digest()


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "test.csv", "summary.json"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_coded_run_that_has_lost_a_file_is_made_again(run, name, empty):
    digits = runs.load_images(run.settings)
    path = coded_run(run, digits, "uint8").path / name
    before = path.read_bytes()
    path.write_bytes(b"") if empty else path.unlink()
    coded_run(run, digits, "uint8")
    assert path.read_bytes() == before


def test_an_unknown_codec_is_refused_before_anything_is_written(run):
    code, error = answer("attack", run.path, "--codec", "uint3", "--attack", "linear")
    assert code == 2
    assert "codec 'uint3'; expected one of: auto, uint8, uint4, uint2, float16, float32" in error
    assert not (run.path / "coded").exists()


def test_a_dry_run_makes_no_coded_run(run):
    assert answer("attack", run.path, "--codec", "uint4", "--attack", "linear", "--attacked", "8", "--dry-run")[0] == 0
    assert not (run.path / "coded").exists()


def test_a_coded_model_is_not_hardened():
    """The codec would stay before the new noise, where nothing sends it, with the grid of another wire."""
    with pytest.raises(UserError, match="the wire of this model is coded; harden the one that it was made from"):
        staying(behind(model(16, 0.3)[0]).defense)


@pytest.mark.parametrize("name", ["uint8", "float16"])
def test_no_training_has_a_codec(name):
    """Noise behind it would be attacked there, and sent before it; a run of it would have no record of its coding."""
    with pytest.raises(UserError, match="train without it, then `splitveil attack RUN --codec NAME`"):
        check_epochs(Stack(Codec(name)), 9)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_law_tells_of_the_rounding(bits):
    coded = behind(model(16, 0.3)[0], bits)
    z = coded.features(torch.rand(4000, 3, 4, 4, generator=rng(2)))
    wire = coded.protect(z, rng(3))
    told = law_of(coded.defense, wire).variance
    measured = (wire - z).var()
    # A coarse grid ends where few values lie, and its rounding is no uniform noise: then it is rough.
    assert float(torch.as_tensor(told).mean()) == pytest.approx(float(measured), rel=0.3 if bits == 2 else 0.05)


def watered(numbers: int = 5) -> SplitModel:
    plain, _ = model(12, 0.0, (3, 2, 2))
    noise = Waterfill(0.1)
    noise.center, draw = torch.zeros(12), rng(5)
    noise.matrix, noise.estimate = torch.randn(numbers, 12, generator=draw), torch.randn(12, numbers, generator=draw)
    about: dict[str, Any] = {"layout": "channels_first", "example": torch.rand(1, 3, 4, 4)}
    return SplitModel(plain.encoder, plain.tail, defense=[noise], **about)


def test_attacks_that_know_the_encoder_know_the_noise_and_the_rounding():
    split, _ = model(24, 0.1)
    coded = behind(split)
    box = WhiteBox(Victim(coded, frozenset(Access)), images(50, 1), 2, rng())
    codec = codec_of(coded.defense)
    assert codec is not None
    assert codec.step is not None
    assert torch.allclose(box.variance, 0.1**2 + codec.step.square() / 12)


def test_behind_waterfill_the_numbers_are_coded_that_are_sent():
    coded = behind(watered(), 2)
    parts: Any = coded.defense
    noise, codec = parts
    z = coded.features(torch.rand(300, 3, 4, 4, generator=rng(2)))
    read = noise._sent_of(coded.protect(z, rng(3)))
    assert max(len((values * 1e3).round().unique()) for values in read.T) <= 4
    assert torch.allclose(read, codec.coded(noise.sent(z, rng(3))), atol=1e-3)
    assert (coded.numbers_sent, coded.bytes_sent) == (5, 2)
    wire, clean = coded.protect(z, rng(4)), noise._shown(noise._sent(z))
    told = law_of(coded.defense, wire).variance
    measured = (wire.flatten(1) - clean).square().mean()
    assert float(torch.as_tensor(told).mean()) == pytest.approx(float(measured), rel=0.2)
    assert float(measured) > 1.5 * float(noise._variance(torch.ones(5)).mean())


@pytest.mark.parametrize("numbers", [5, 12])
def test_linkage_codes_what_is_sent_even_if_it_is_as_long_as_the_feature(numbers):
    coded = behind(watered(numbers), 2)
    channel = Channel.of(coded, images(400, 1), rng())
    law = channel.conditional("held_out")
    arrived = channel.received("held_out", law, rng())
    assert arrived.shape == (160, numbers)
    assert max(len(values.unique()) for values in arrived.T) <= 4
    assert Linkage().estimate(channel, rng())[0].interval.lo > 0.1  # type: ignore[union-attr]  # chance


def test_gradients_pass_a_codec_as_if_it_were_not_there():
    coded = behind(model(16, 0.3)[0], 2)
    z = torch.rand(2, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(coded.protect(z, rng()).sum(), z)
    assert torch.equal(gradient, torch.ones_like(z))


def test_bounds_that_say_what_arrives_see_the_codec():
    toys, plain = images(400, 1), model(16, 0.02)[0]
    found = {}
    for name, one in (("plain", plain), ("coded", behind(plain, 2))):
        channel = Channel.of(one, toys, rng())
        found[name] = [e.kind for e in PairwiseBound().estimate(channel, rng())], Linkage().estimate(channel, rng())
    assert [kinds for kinds, _ in found.values()] == [["lower", "upper"], ["upper"]]
    seen = [estimates[-2].value for _, estimates in found.values()]
    assert seen[0] > 0.99
    assert seen[1] < 0.9  # 32 bits tell fewer of 100 photos apart


def test_the_export_of_a_coded_run_keeps_its_grid(run):
    from splitveil.deploy.export import _coder

    digits = runs.load_images(run.settings)
    coded = coded_run(run, digits, "uint4").model(digits)
    own = codec_of(coded.defense)
    assert own is not None
    sent = coded.features(digits.test.images.float() / 255).detach()
    coder, error = _coder(coded, "auto", sent, 0.1)
    assert coder.codec == "uint4"
    assert torch.equal(coder.low.flatten(), own.low)  # type: ignore[union-attr, arg-type]
    assert error is not None
    with pytest.raises(UserError, match="codec uint8, but the wire of this run is sent by uint4 already"):
        _coder(coded, "uint8", sent, 0.1)
