"""benchmarks/estimators.py and benchmarks/held_out_leakage.py in small, and their tables on the page of bounds."""

from __future__ import annotations

import json
import math
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from splitveil.storage.files import write_json

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    critics, estimators, held_out = map(import_module, ("critics", "estimators", "held_out_leakage"))
    monkeypatch.setattr(critics, "STEPS", 60)
    monkeypatch.setattr(critics, "EVERY", 30)
    return critics, estimators, held_out


class Exact(torch.nn.Module):
    """The logarithm of the density ratio of w = z + N(0, σ² I) and z ~ N(0, I), plus a constant."""

    def __init__(self, sigma: float, plus: float = 0.0):
        super().__init__()
        self.variance, self.plus = sigma**2, plus

    def ratio(self, z: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        given = (w - z).square() / self.variance + math.log(self.variance)
        alone = w.square() / (1 + self.variance) + math.log(1 + self.variance)
        return (alone - given).sum(-1) / 2 + self.plus

    def forward(self, z: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return self.ratio(z[:, None], w[None])  # of all pairs

    def contrast(self, z: torch.Tensor, w: torch.Tensor, shifts: int) -> tuple[torch.Tensor, torch.Tensor]:
        others = torch.cat([self.ratio(z, w.roll(by, 0)) for by in range(1, shifts + 1)])
        return self.ratio(z, w).mean(), others.logsumexp(0) - math.log(len(others))


def test_the_objectives_answer_the_truth_with_the_best_critic(modules):
    critics = modules[0]
    rng, sigma = torch.Generator().manual_seed(0), 1.0
    z, noise = (torch.randn(2000, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    w, scales = z + sigma * noise, (torch.ones(2), torch.ones(2))
    truth = math.log(1 + 1 / sigma**2)
    for name, plus in (("NWJ", 1.0), ("MINE", 0.0), ("InfoNCE", 0.0)):
        made = critics.ESTIMATORS[name](2, scales)
        made.model = Exact(sigma, plus)
        assert made.scores(z, w)[0] == pytest.approx(truth, abs=0.1), name
    # CLUB with the true law is the symmetric divergence: Var z/σ² for each number.
    law = torch.full_like(z, sigma**2)
    assert critics.club(z, law, w) == pytest.approx(2 / sigma**2, rel=0.1)


def test_the_parts_of_a_critic_come_from_the_pairs_they_name(modules):
    critic = modules[0].Critic(1, (torch.ones(1), torch.ones(1)), separable=False).requires_grad_(False)
    z = torch.arange(5.0)[:, None]
    pairs = critic(z.repeat_interleave(5, 0), z.repeat(5, 1)).view(5, 5)
    together, others = critic.contrast(z, z, 4)
    apart = pairs[~torch.eye(5, dtype=torch.bool)]
    assert float(together) == pytest.approx(float(pairs.diagonal().mean()), rel=1e-5)
    assert float(others) == pytest.approx(float(apart.exp().mean().log()), rel=1e-5)


def test_a_channel_leaks_what_was_asked_for(modules):
    channel, sigma = modules[1].linear_channel(3, 5.0, 0, 20_000)
    covariance = torch.cov(torch.cat([channel.conditional(part).mean for part in ("fit", "held_out")]).T)
    powers = torch.linalg.eigvalsh(covariance) / sigma**2
    assert float(powers.log1p().sum()) / 2 == pytest.approx(5, abs=0.1)


def test_the_estimators_are_compared_and_not_computed_twice(modules, tmp_path, monkeypatch, capsys):
    critics, estimators, _ = modules
    out = tmp_path / "record.json"
    monkeypatch.setattr(estimators, "installed", lambda: None)
    monkeypatch.setattr(estimators, "OURS", ("mixture", "pairwise"))
    given = ["estimators.py", "--only", "2x2", "--seeds", "0", "--images", "1000", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", given)
    estimators.main()
    printed = capsys.readouterr().out
    assert "npeet-plus is not installed, so its row is left out" in printed
    record = json.loads(out.read_text())
    found = {name: row["mean"] for name, row in record["summary"]["2x2"].items()}
    assert list(found) == ["mixture", "pairwise", "InfoNCE", "NWJ", "MINE", "CLUB", "CLUB, known noise"]
    assert found["mixture"] == pytest.approx(2, abs=0.25)
    assert found["pairwise"] < 2.2
    assert 0.1 < found["InfoNCE"] < 2.2
    assert found["CLUB, known noise"] > 2
    monkeypatch.setattr(critics, "trained", lambda *_: pytest.fail("what the record holds is trained again"))
    estimators.main()
    assert json.loads(out.read_text())["cases"] == record["cases"]
    assert estimators.table(record["summary"]) in capsys.readouterr().out


def test_a_record_of_other_settings_is_measured_anew(modules, tmp_path, monkeypatch):
    _, estimators, _ = modules
    out, asked = tmp_path / "record.json", []
    write_json(out, {"settings": {"steps": 1}, "cases": [{"dimension": 2, "nats": 2, "seed": 0, "found": {}}]})
    monkeypatch.setattr(estimators, "measure", lambda case, images: asked.append(case["seed"]))
    monkeypatch.setattr(sys, "argv", ["estimators.py", "--only", "2x2", "--seeds", "5", "--out", str(out)])
    estimators.main()
    assert asked == [5]
    assert [case["seed"] for case in json.loads(out.read_text())["cases"]] == [5]


def test_the_logged_leakage_is_measured_again_held_out(modules, small, tmp_path, monkeypatch, capsys):
    _, _, held_out = modules
    settings = {"data": "digits", "arch": "resnet20_sgm", "cut": 2, "bottleneck": 4, "precision": "32-true"}
    settings |= {"train_size": 100, "test_size": 60, "batch_size": 32}
    monkeypatch.setattr(held_out, "SETTINGS", {**settings, "defense": ["gaussian:0.025", "cem:0"]})
    monkeypatch.setattr(held_out, "SIZES", {"500": {"epochs": 1}})
    monkeypatch.setattr(held_out, "MOST", 50)
    record = tmp_path / "record.json"
    given = ["held_out_leakage.py", "--images", "500", "--seeds", "1", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", [*given, "--record", str(record)])
    held_out.main()
    (row,) = json.loads(record.read_text())["cells"]
    summary = json.loads((tmp_path / "runs" / "500-s1" / "summary.json").read_text())
    assert row["logged"] == summary["leakage_nats"]
    assert (row["trained_on"], row["again_on"]) == (90, 50)
    assert all(math.isfinite(row[name]) for name in ("training images", "other images"))
    assert [row[name]["kind"] for name in ("mixture", "channel")] == ["upper", "upper"]
    monkeypatch.setattr(held_out, "fit", None)  # a second call trains nothing
    held_out.main()
    assert json.loads(record.read_text())["cells"] == [row]
    assert capsys.readouterr().out.count("500 images, seed 1: logged ") == 2


@pytest.mark.parametrize("name", ["estimators", "held_out_leakage"])
def test_the_table_on_the_page_is_that_of_the_record(modules, name):
    script = {"estimators": modules[1], "held_out_leakage": modules[2]}[name]
    record = json.loads((BENCHMARKS / f"{name}.json").read_text())
    table = script.table(record["summary"] if name == "estimators" else record["cells"])
    assert table in (ROOT / "docs" / "bounds.md").read_text()
