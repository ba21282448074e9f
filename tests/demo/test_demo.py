"""The demo from end to end, with a smaller network and fewer epochs than a user gets."""

from __future__ import annotations

import pytest

from splitveil import config, demo
from splitveil.cli import main
from splitveil.errors import UserError
from splitveil.results import records


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, "epochs": 2, "train_size": 60, "cut": 8, "bottleneck": 2})
    decoder = config.Spec(name="decoder", parameters={"epochs": 1, "network": "conv_normN0C16"})
    few = demo.data.load("digits", train_size=300, test_size=60)
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
    assert opening.count("data:image/png") == 3
    noise, cem = sorted(records.gather(out), key=lambda record: record.defense[-1])
    assert (noise.defense, cem.defense) == (["gaussian:0.05", "cem:0"], ["gaussian:0.05", demo.MODELS[CEM][1]])
    for title, record in (("without CEM", noise), ("with CEM", cem)):
        assert f"{title}: gaussian:0.05" in opening
        assert f"{record.strongest}: MSE {record.attacks[record.strongest].mse}" in opening
        assert opening.count("<span>") == 20
    assert "A tour of the method, not evidence for a deployment" in page
    assert f"splitveil demo --out {out} --seed 0" in page
    assert 'id="equal"' not in page
    assert "run the grid with --baseline noise" in page
    assert not (out / "noise").exists()
    assert len(list((out / "cells").iterdir())) == 2


CEM = "Gaussian noise and CEM"


def test_another_folder_is_not_touched(small, tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UserError, match="no earlier demo"):
        demo.run_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]
