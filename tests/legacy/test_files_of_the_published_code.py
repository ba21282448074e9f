"""Published files are known by what they hold: whole models come in, decoders are refused with advice that works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from published import PublishedVGG, layouts, random_tensors, save_layout
from splitveil import config, data
from splitveil.errors import UserError
from splitveil.evaluation.evaluate import attack_run
from splitveil.evaluation.perceptual import _read
from splitveil.legacy.command import run
from splitveil.legacy.tensors import read_tensors
from splitveil.runs import Run, load_file

pytestmark = pytest.mark.usefixtures("quick_weights")

OPTIONS = ["--bottleneck_option", "noRELU_C8S1", "--data", "digits", "--cut", "4"]
SIZES = ["--train-size", "40", "--test-size", "20"]


@pytest.mark.parametrize(("place", "also_parts"), [("", True), ("checkpoint_best.tar", False)])
def test_one_file_with_the_whole_model_is_read(tmp_path: Path, place: str, also_parts: bool):
    """A scheme without V writes it; the cloud and classifier beside it may be there, the device part is not."""
    files = layouts()["orig_scheme"]
    whole = {"checkpoint_best.tar": files["checkpoint_best.tar"]}
    folder = save_layout(files if also_parts else whole, tmp_path / "c")
    text = run([str(folder / place), "--out", str(tmp_path / "run"), *OPTIONS, *SIZES])
    assert "imported" in text
    stored = torch.load(folder / "checkpoint_best.tar", weights_only=True)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert torch.equal(weights["encoder.blocks.0.0.weight"], stored["local.0.weight"])
    assert torch.equal(weights["tail.head.8.bias"], stored["classifier.6.bias"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["imported"]["sha256"]) == ["checkpoint_best.tar"]


def test_the_checkpoints_that_are_proposed_can_be_read(tmp_path: Path):
    folder = save_layout(layouts()["cem16"], tmp_path / "c")
    (folder / "checkpoint_f_best.tar").unlink()
    with pytest.raises(UserError, match=r"lacks checkpoint_f_best\.tar.*choose with --checkpoint 2$") as caught:
        run([str(folder), "--out", str(tmp_path / "run"), *OPTIONS])
    advice = str(caught.value).rpartition("choose with ")[2].split()
    assert "imported" in run([str(folder), "--out", str(tmp_path / "run"), *OPTIONS, *SIZES, *advice])


def test_without_a_whole_checkpoint_none_is_proposed(tmp_path: Path):
    files = {name: layout for name, layout in layouts()["cut3"].items() if "_f_" not in name}
    folder = save_layout(files, tmp_path / "c")
    with pytest.raises(UserError, match="of no checkpoint all three parts; copy the missing ones too"):
        run([str(folder), "--out", str(tmp_path / "run"), *OPTIONS])


@pytest.mark.parametrize("name", ["model.pt", "checkpoint_100_G.tar", "decoder.safetensors"])
def test_a_decoder_is_refused_and_the_advice_attacks_the_imported_network(tmp_path: Path, name: str):
    files = layouts()["cem16"]
    folder = save_layout(files, tmp_path / "c")
    decoder = tmp_path / "MIA_attack_0to0" / name
    decoder.parent.mkdir()
    torch.save(random_tensors(files["model.pt"] or {}), decoder)
    for place in (decoder, decoder.parent):
        if place == decoder or name == "model.pt":
            with pytest.raises(UserError, match=r"not imported: import the network's own checkpoint") as caught:
                run([str(place), "--out", str(tmp_path / "run")])
            assert not (tmp_path / "run").exists()
            assert "\n" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        run([str(decoder), "--out", str(tmp_path / "run")])
    found = re.search(r"--attack (\S+),", str(caught.value))
    assert found is not None
    assert found[1] == "decoder:network=res_normN8C64"
    if name != "model.pt":  # the advice is one and the same
        return
    run([str(folder), "--out", str(tmp_path / "run"), *OPTIONS, *SIZES])
    spec = config.Spec.model_validate(found[1] + ",epochs=1")
    images = data.load("digits", train_size=40, test_size=20)
    assert attack_run(Run.open(tmp_path / "run"), spec, images)["mse"]["mean"] > 0


def test_one_part_of_three_leads_to_its_folder(tmp_path: Path):
    folder = save_layout(layouts()["nopeek"], tmp_path / "c")
    with pytest.raises(UserError, match=rf"one part of three; give its folder: {re.escape(str(folder))}$"):
        run([str(folder / "checkpoint_cloud_best.tar"), "--out", str(tmp_path / "run")])


@pytest.mark.parametrize("name", ["w.safetensors", "w.tar", "w"])
@pytest.mark.parametrize("reader", [read_tensors, _read])
def test_the_name_of_a_file_does_not_decide_how_it_is_read(tmp_path: Path, name: str, reader: Any):
    tensors = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.weight": torch.ones(2)}
    torch.save(tensors, tmp_path / name)
    assert list(reader(tmp_path / name)) == ["b.weight", "a.weight"]
    torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=False)
    assert torch.equal(reader(tmp_path / name)["b.weight"], tensors["b.weight"])
    save_file(tensors, tmp_path / name)
    if reader is _read:
        assert torch.equal(reader(tmp_path / name)["a.weight"], tensors["a.weight"])
    else:  # the order by which layers are matched is lost in them
        with pytest.raises(UserError, match="do not keep the order of the layers"):
            reader(tmp_path / name)


def test_a_whole_model_of_other_parts_is_no_model_that_was_cut(tmp_path: Path):
    model = PublishedVGG()
    torch.save({f"encoder.{name}": value for name, value in model.state_dict().items()}, tmp_path / "x.tar")
    with pytest.raises(UserError, match=r"x\.tar is no model that was cut in two"):
        run([str(tmp_path / "x.tar"), "--out", str(tmp_path / "run")])
