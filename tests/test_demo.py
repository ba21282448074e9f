"""The demo from end to end, with a smaller network and fewer epochs than a user gets."""

import json

import pytest

from splitveil import config, demo
from splitveil.cli import main
from splitveil.errors import UserError


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, "epochs": 2, "train_size": 60, "cut": 8, "bottleneck": 2})
    parameters = {"epochs": 1, "network": "conv_normN0C16"}
    monkeypatch.setattr(demo, "ATTACK", config.Spec(name="decoder", parameters=parameters))


def test_the_page_shows_what_both_runs_measured(small, tmp_path, capsys):
    main(["demo", "--out", str(tmp_path / "demo")])
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert str(tmp_path / "demo" / "report.html") in capsys.readouterr().out.replace("\n", "")
    for name in demo.MODELS:
        found = json.loads((tmp_path / "demo" / name / "attacks" / "decoder" / "summary.json").read_text())
        assert f"{found['mse']['mean']:.4g}" in page
    assert page.count("data:image/png") >= 3 * 10


def test_an_earlier_demo_is_replaced_and_another_folder_is_not(small, tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UserError, match="no earlier demo"):
        demo.run_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]
