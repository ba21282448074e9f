"""The demo from end to end, with a smaller network and fewer epochs than a user gets."""

import pytest
import torch

from splitveil import config, demo
from splitveil.cli import main
from splitveil.errors import UserError
from splitveil.results.comparable import Side, best_rows
from splitveil.statistics.intervals import bootstrap_ci


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, "epochs": 2, "train_size": 60, "cut": 8, "bottleneck": 2})
    decoder = config.Spec(name="decoder", parameters={"epochs": 1, "network": "conv_normN0C16"})
    few = demo.data.load("digits", train_size=300, test_size=60)
    monkeypatch.setattr(demo.data, "load", lambda _: few)
    monkeypatch.setattr(demo, "ATTACKS", {"linear": config.Spec(name="linear"), "decoder": decoder})


def test_the_page_shows_what_both_runs_measured(small, tmp_path, capsys):
    main(["demo", "--out", str(tmp_path / "demo")])
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert str(tmp_path / "demo" / "report.html") in capsys.readouterr().out.replace("\n", "")
    for name in demo.MODELS:
        side = Side.of(tmp_path / "demo" / name)
        (row, *_), who = best_rows(side, side, ["linear", "decoder"], None)
        assert isinstance(row.a, torch.Tensor)
        mean, _, _ = str(bootstrap_ci(row.a)).partition(" [")
        assert mean in page
        attacker = who.partition(": ")[2].partition(" on A")[0]
        assert f"<b>{attacker}</b>" in page
    assert page.count("data:image/png") >= 3 * 10


def test_an_earlier_demo_is_replaced_and_another_folder_is_not(small, tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UserError, match="no earlier demo"):
        demo.run_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]
