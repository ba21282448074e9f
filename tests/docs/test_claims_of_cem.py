"""What the pages say of CEM beside noise is what the records show, with what they leave open."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from splitveil.data.protocol import protocol_sizes
from splitveil.statistics.evidence import over_seeds
from splitveil.training.loop import batches

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS, RECIPES = "docs/results.md", "docs/recipes.md"


def page(name: str | Path) -> str:
    """Return a page in one line."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def record(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8"))


def percent(log_ratio: dict[str, Any]) -> str:
    mean, low, high = (f"{100 * math.expm1(x):+.0f}".replace("-", "−") for x in (log_ratio["mean"], *log_ratio["ci95"]))
    return f"{mean} % [{low}, {high}]"


@pytest.mark.parametrize("name", ["README.md", RESULTS])
def test_the_larger_training_is_told_by_both_attackers(name):
    found = record("hardening_front.json")["compared"]["follow4-1/isotropic-0.025"]
    by = [
        f"{percent(found[attack]['log_ratio'])} by {who}"
        for attack, who in (("decoder", "a decoder"), ("residual", "`residual`"))
    ]
    text = page(name).replace("%, +", "% and +").replace(" decoder, +", " decoder and +")
    assert " and ".join(by) in text


@pytest.mark.parametrize("name", ["README.md", RESULTS, "docs/concepts/noise-and-cem.md", "docs/cem.md"])
def test_the_control_is_told_with_its_accuracy(name):
    one = record("tradeoff_follow.json")["compared"]["one/residual"]
    assert re.search(rf"{re.escape(percent(one['log_ratio']))}(\*\*)? at {100 * one['accuracy']:.1f} %", page(name))


def test_the_page_says_what_the_earlier_intervals_allow():
    cells = {cell["cell"]: cell for cell in record("tradeoff.json")["cells"]}
    shares = []
    for attack in ("decoder", "linear"):
        file = ROOT / "records" / f"cem-at-equal-accuracy-{attack}.json"
        noise = over_seeds([cells[f"noise-0.2-s{seed}"][attack]["mse"]["mean"] for seed in range(4)]).mean
        interval = json.loads(file.read_text(encoding="utf-8"))["figure"]["ci95"]
        shares.append("from {:+.0f} to {:+.0f} %".format(*(100 * end / noise for end in interval)).replace("-", "−"))
    assert f"reach {shares[0]} for the decoder and {shares[1]} for the linear attack" in page(RESULTS)


def test_the_settings_of_the_short_trainings_are_told():
    how = record("tradeoff_follow.json")["settings"]
    trained = protocol_sizes("inference_time", how["train_size"], 10_000)["defender_train"]
    steps = how["epochs"] * len(batches(trained, how["batch_size"], torch.Generator(), 2))
    told = f"{how['epochs']} epochs, batch {how['batch_size']}, rate {how['lr']} and one epoch of warm-up"
    assert how["warmup_epochs"] == 1
    assert told in page(RESULTS)
    assert f"makes {steps} steps" in page(RESULTS)
    assert "**Accuracy as trained; tails were not retrained.**" in page(RESULTS)


def test_no_page_gives_the_clusters_as_the_cause_or_a_squeezed_schedule_as_the_published_recipe():
    for path in PAGES:
        text = page(path)
        assert not re.search(r"clusters that stay(ed)?[^.]*no difference|clusters did not follow", text), path
        assert not re.search(r"by the published recipe,? (and|no difference)", text, re.IGNORECASE), path


def shares(difference: list[float]) -> str:
    mean, low, high = (f"{100 * x:+.0f}".replace("-", "−") for x in difference)
    return f"{mean} % [{low}, {high}]"


@pytest.mark.parametrize("name", ["README.md", RESULTS, "docs/concepts/noise-and-cem.md", "docs/cem.md", "docs/faq.md"])
def test_whole_trainings_are_told_as_their_record_has_them(name):
    """Not "more": the plan's verdict stands on the page of results, and no page claims another."""
    endpoint = record("trained_tradeoff.json")["endpoint"]
    assert endpoint["verdict"] == "not decided"
    assert f"{shares(endpoint['difference'])}" in page(name)
    assert f"{100 * endpoint['accuracy']:.1f} %" in page(name)
    assert re.search(r"not (shown|decided)", page(name))


def test_the_table_of_whole_trainings_is_that_of_the_record():
    found = record("trained_tradeoff.json")
    text = page(RESULTS)
    for point, row in found["rows"].items():
        percents = [f"{100 * row[key][0]:.1f} ±{100 * row[key][1]:.1f}" for key in ("accuracy", "retrained_accuracy")]
        errors = [f"{row[key][0]:.4f} ±{row[key][1]:.4f}" for key in ("best_mse", "linear_mse")]
        assert f"| {' | '.join([*percents, *errors])} |" in text, point
    secondary = found["secondary"]["cem4"]
    for key in ("linear/retrained_hits", "best/hits"):
        assert shares(secondary[key]["difference"]) in text
    assert f"{shares(found['endpoint']['against_noise_of']['0.1'])} more error than noise of 0.1" in text
    alone = sorted(round(100 * one) for one in found["endpoint"]["of_each_seed"])
    assert f"one had {alone[0]} %, the others +{alone[1]}, +{alone[2]} and +{alone[3]} %" in text


@pytest.mark.parametrize("name", ["README.md", RESULTS, "docs/concepts/noise-and-cem.md", "docs/cem.md"])
def test_the_control_of_whole_trainings_is_told_as_its_record_has_it(name):
    one = record("trained_tradeoff.json")["secondary"]["one4"]["best/retrained_hits"]
    assert shares(one["difference"]) in page(name)
    if name == RESULTS:
        alone = sorted(round(100 * of_seed) for of_seed in one["of_each_seed"])
        assert "seeds by themselves: +{}, +{}, +{} and +{} %".format(*alone) in page(name)
        assert f"behind noise of its accuracy, which is {100 * one['accuracy']:.1f} %" in page(name)


def test_the_question_is_open_until_its_record_is_there():
    assert not (ROOT / "benchmarks" / "equal_accuracy.json").exists(), "say on the pages what the record answers"
    assert "(docs/results.md#what-is-open)" in page("README.md")
    told = (ROOT / RESULTS).read_text(encoding="utf-8").partition("### What is open")[2].partition("\n### ")[0]
    for script in ("gpu.py --archive", "equal_accuracy.py gpu/records.jsonl"):
        assert f"python benchmarks/{script}" in told


def test_whoever_sees_the_picture_of_the_demo_is_told_that_nothing_is_hidden():
    showing = [path for path in PAGES if "demo.png)" in path.read_text(encoding="utf-8")]
    assert len(showing) == 2
    for path in (*showing, ROOT / "docs" / "start.md"):
        assert re.search(r"anyone can (still )?read", page(path)), path


def test_the_table_of_the_gpu_is_that_of_its_record():
    steps = record("gpu_records/profile-h100.json")["steps"]
    for step in steps:
        cells = f"{step['milliseconds']:.1f} | {step['kernel_milliseconds']:.1f} | "
        assert re.search(
            rf"\| {re.escape(cells)}[\d,]+ \| {100 * step['share_of_matrix_rate']:.0f} % \|", page(RECIPES)
        )
    waits = [100 * (1 - step["kernel_milliseconds"] / step["milliseconds"]) for step in steps[:2]]
    assert f"waited for Python {waits[0]:.0f} % of the time, and {waits[1]:.0f} % with `cem`" in page(RECIPES)


def test_the_page_says_that_no_step_is_captured_while_none_is():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert not re.search(r"torch\.compile\(|CUDAGraph|cuda\.graph|make_graphed_callables", source)
    assert "**Neither the steps of a training nor those of a decoder are captured as CUDA graphs or compiled**" in page(
        RECIPES
    )


def test_the_figures_of_speed_have_their_version():
    version = record("speed.json")["machine"]["splitveil"]
    assert f"**All of these are of splitveil {version}" in page(RESULTS)
    (row,) = re.findall(r"\| did it cost time\? \|[^|]*\|", page("docs/concepts/noise-and-cem.md"))
    assert f"in splitveil {version}" in row
    assert "| peak memory of training on 50,000 images |" not in page(RESULTS)
