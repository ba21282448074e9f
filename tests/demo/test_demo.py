"""The demo from end to end, with a smaller network and fewer epochs than a user gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from networks import tiny
from splitveil import config, demo, runs
from splitveil.cli import main
from splitveil.errors import UserError
from splitveil.results import records


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, "epochs": 2, "train_size": 60, "cut": 8, "bottleneck": 2})
    decoder = config.Spec(name="decoder", parameters={"epochs": 1, "network": "conv_normN0C16"})
    few = demo.data.load("digits", train_size=300, test_size=60)
    monkeypatch.setattr(runs.zoo, "build", tiny)
    monkeypatch.setattr(demo.data, "load", lambda _: few)
    monkeypatch.setattr(demo, "ATTACKS", {"linear": config.Spec(name="linear"), "decoder": decoder})


def test_the_page_opens_with_what_both_models_leave_the_attacker(small, tmp_path, capsys):
    out = tmp_path / "demo"
    for name in ("noise", "cells"):  # what an earlier demo left is replaced
        (out / name / "old").mkdir(parents=True)
    (out / demo.MARKER).touch()
    main(["demo", "--out", str(out)])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert str(out / "report.html") in capsys.readouterr().out.replace("\n", "")
    opening = page[page.index('<section id="opening">') : page.index('<section id="tradeoff">')]
    assert opening.count("data:image/png") in (3, 4)  # the originals, both, and the noise that is nearest in accuracy
    found = {tuple(record.defense): record for record in records.gather(out)}
    assert set(found) == set(demo.MODELS.values())
    for title, defenses in (("without CEM", demo.MODELS["Gaussian noise alone"]), ("with CEM", demo.MODELS[CEM])):
        record = found[defenses]
        attack = record.attacks[record.strongest]
        assert f"{title}: gaussian:0.05" in opening
        assert f"{record.strongest}: MSE {attack.mse}" in opening
        assert attack.reidentified is not None
        assert attack.recognized is not None
        assert (
            f"reads {100 * attack.reidentified.mean:.0f} % (originals: {100 * attack.recognized.mean:.0f} %)" in opening
        )
    assert "a tour of the method, not evidence for a deployment" in page
    assert "CEM hides nothing from the eye here" in page[: page.index('<section id="opening">')]
    assert f"splitveil demo --out {out} --seed 0" in page
    assert 'id="equal"' in page
    title = page[page.index("<h1") : page.index("</h1>")]  # of so few epochs the networks may be at chance
    assert ("equal accuracy" in title) != ("not shown to be better than chance" in title)
    assert not (out / "noise").exists()
    assert len(list((out / "cells").iterdir())) == len(demo.MODELS)


def test_the_reader_reads_clean_digits_and_no_noise():
    images = demo.data.load("digits")
    reader = demo.Reader.of(images)
    x, y = demo.data.to_float(images.test.images), images.test.labels
    assert float(reader(x, x, y).float().mean()) > 0.95
    nothing = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    assert float(reader(nothing, x, y).float().mean()) < 0.3
    assert float(replace(reader, original=True)(nothing, x, y).float().mean()) > 0.95


CEM = "Gaussian noise and CEM"


def test_another_folder_is_not_touched(small, tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UserError, match="no earlier demo"):
        demo.run_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]
