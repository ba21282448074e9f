"""An audit of a run of seconds: its record, its card, its policy, and how a stopped one goes on."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from card_helpers import Fair, Page
from commands import TRAIN, answer, state_of
from networks import tiny
from splitveil import runs
from splitveil.audit import bounded, words
from splitveil.audit import run as audits
from splitveil.audit.record import AUDIT, as_json, json_schema
from splitveil.cli import main
from splitveil.evaluation import reidentification, suites
from splitveil.pictures import spread
from splitveil.storage.files import json_digest, write_json

SUITE = suites.specs("linear:looks=1", "nearest:neighbors=1,looks=1")
BOUNDS = ["--bounds", "mixture:clusters=1", "--bounds", "linkage", "--bounds", "pairwise"]
SCHEMA = Path(__file__).parents[2] / "docs" / "audit.schema.json"


def hurry(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(suites.SUITES, "tiny", SUITE)
    patch.setattr(reidentification, "judge_for", lambda *_, **__: Fair())
    patch.setattr(runs.zoo, "build", tiny)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Three runs; the one called audited has the weights of the one called noise, and an audit."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        fewer = ["70" if token == "60" else token for token in TRAIN]  # training images
        made = {"noise": [*TRAIN, "--defense", "gaussian:2"], "plain": TRAIN, "other": [*TRAIN, "--seed", "1"]}
        for name, options in {**made, "fewer": fewer}.items():
            assert answer("train", *options, "--out", folder / name)[0] == 0
        shutil.copytree(folder / "noise", folder / "audited")
        audit(folder / "audited")
    return folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    for path in trained.iterdir():
        shutil.copytree(path, tmp_path / path.name)
    return tmp_path


def audit(run: Path, *more: object) -> dict[str, Any]:
    """Audit a run by the command; return what audit.json holds."""
    code, error = answer("audit", run, "--suite", "tiny", *BOUNDS, *more)
    assert code in (0, 1), error
    return json.loads((run / "audit" / "audit.json").read_text())


def test_the_record_says_what_was_measured(folder):
    found = audit(folder / "noise", "--against", folder / "plain")
    assert as_json(AUDIT.validate_python(found)) == found
    assert found["attacker"]["images"] == 54
    assert found["attacker"]["attacked"] == 40
    assert set(found["attacks"]) == {"linear", "nearest"}
    assert found["best_attacker"]["reidentified"]["mean"] == 0.5
    assert found["seen"]["share"]["mean"] == 0.5
    assert found["judge"]["recognized"]["mean"] == 1
    assert found["reference"]["ratio"]["mean"] == pytest.approx(
        found["best_attacker"]["mse"]["mean"] / found["reference"]["mse"]["mean"]
    )
    assert found["reference"]["ratio"]["mean"] > 1  # noise of this strength is seen
    own, its = found["accuracy"]["mean"], found["reference"]["accuracy"]["mean"]
    assert found["reference"]["accuracy_difference"]["mean"] == pytest.approx(own - its)
    assert found["pictures"]["most"]["mse"] <= found["pictures"]["median"]["mse"] <= found["pictures"]["least"]["mse"]
    assert found["device"]["bytes"] == 4 * torch.Size(found["device"]["wire"]).numel()
    assert {one["bound"] for one in found["bounds"]} == {"mixture:clusters=1", "linkage", "pairwise"}


def test_the_bound_of_theorem_1_is_told_relative_to_the_reference(folder):
    shutil.copytree(folder / "noise", folder / "quieter")
    settings = (folder / "quieter" / "config.yaml").read_text()
    assert "2.0" in settings
    (folder / "quieter" / "config.yaml").write_text(settings.replace("2.0", "0.5"))
    kept = json.loads((folder / "quieter" / "summary.json").read_text())
    write_json(folder / "quieter" / "summary.json", {**kept, "settings": {}})  # earlier versions kept none
    found = audit(folder / "noise", "--against", folder / "quieter")
    ours, theirs = (
        json.loads((folder / run / "audit" / "bounds" / "mixture-clusters-1.json").read_text())["estimates"][0]["value"]
        for run in ("noise", "quieter")
    )
    pixels = torch.Size(found["model"]["image"]).numel()
    assert theirs > ours
    assert found["reference"]["entropy_factor"] == pytest.approx(math.exp(2 * (theirs - ours) / pixels))
    assert "how large either is, it does not say" in (folder / "noise" / "audit" / "audit.html").read_text()
    assert audit(folder / "noise", "--against", folder / "plain")["reference"]["entropy_factor"] is None


def test_the_reference_of_a_coded_run_is_sent_by_the_same_codec(folder, capsys):
    answer(
        "audit",
        folder / "noise",
        "--suite",
        "tiny",
        "--bounds",
        "linkage",
        "--codec",
        "uint4",
        "--against",
        folder / "plain",
    )
    coded = folder / "noise" / "coded" / "uint4"
    found = json.loads((coded / "audit" / "audit.json").read_text())["reference"]
    assert (found["run"], found["codec"]) == (str(folder / "plain" / "coded" / "uint4"), "uint4")
    for page in (coded / "audit" / "audit.html",):
        assert f"The wire of {found['run']} is sent by the same codec, uint4." in page.read_text()
    itself = audit(coded, "--against", folder / "noise")["reference"]  # what the codec does
    assert (itself["run"], itself["codec"]) == (str(folder / "noise"), "none")
    page = (coded / "audit" / "audit.html").read_text()
    assert f"The wire of {folder / 'noise'} is the one before any codec: a part of each difference" in page
    assert audit(folder / "noise", "--against", folder / "plain")["reference"]["codec"] == "none"
    assert "is before any codec as well." in (folder / "noise" / "audit" / "audit.html").read_text()


def test_the_published_schema_is_that_of_this_version():
    assert json.loads(SCHEMA.read_text()) == json_schema()


def test_an_audit_goes_on_where_it_stopped(folder, monkeypatch):
    run = folder / "audited"
    first = json.loads((run / "audit" / "audit.json").read_text())
    (run / "audit" / "audit.json").unlink()
    before = state_of(run / "attacks")

    def never(*_: object) -> None:
        raise AssertionError("it was computed already")

    monkeypatch.setattr(bounded, "_made", never)
    again = audit(run)
    assert {**again, "device": 0, "command": 0, "model": 0} == {**first, "device": 0, "command": 0, "model": 0}
    changed = {path for path, digest in state_of(run / "attacks").items() if before.get(path) != digest}
    assert {path.name for path in changed} <= {"suite-tiny.json"}


def test_bounds_of_other_weights_are_computed_again(folder):
    run = folder / "audited"
    first = json.loads((run / "audit" / "audit.json").read_text())
    for path in (folder / "plain").glob("*"):
        if path.is_file():
            shutil.copy(path, run / path.name)
    second = audit(run)
    assert second["model"]["weights"] != first["model"]["weights"]
    assert not second["model"]["noise"]
    assert first["model"]["noise"]
    assert "mixture:clusters=1" in second["refused"]
    assert "mixture:clusters=1" not in first["refused"]


def test_an_undefended_model_is_described_in_words(folder):
    found = audit(folder / "plain", "--format", "html", "--format", "markdown")
    assert "carries no noise" in found["refused"]["mixture:clusters=1"]
    assert not found["model"]["noise"]
    texts = [(folder / "plain" / "audit" / name).read_text() for name in ("audit.json", "audit.html", "audit.md")]
    assert not any(re.search(r"\b(inf|nan|NaN|Infinity)\b", text) for text in texts)
    assert "always the same" in texts[1]


def test_the_card_loads_nothing_and_says_the_verdict(folder):
    (folder / "policy.yaml").write_text("require:\n  linkage: {at_most: 0.0}\n")
    found = audit(folder / "audited", "--policy", folder / "policy.yaml", "--against", folder / "plain")
    page = Page((folder / "audited" / "audit" / "audit.html").read_text())
    assert not page.open
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == 6
    assert "script" not in (folder / "audited" / "audit" / "audit.html").read_text()
    assert found["verdict"]["sentence"] in page.text
    assert found["verdict"]["level"] in page.text
    assert "not met" in page.text
    assert "linkage" in page.text


def test_a_policy_that_is_not_met_ends_with_1(folder, capsys):
    rules = folder / "policy.yaml"
    rules.write_text(
        "require:\n  accuracy: {at_least: 0.0}\n  linkage: {at_most: 0.01}\n  accuracy_drop: {at_most: 99}\n"
    )
    assert answer("audit", folder / "audited", "--suite", "tiny", *BOUNDS, "--policy", rules)[0] == 1
    lines = json.loads((folder / "audited" / "audit" / "audit.json").read_text())["policy"]["lines"]
    assert {line["requirement"]: line["met"] for line in lines} == {
        "accuracy": True,
        "linkage": False,
        "accuracy_drop": False,
    }
    assert lines[1]["measured"].startswith("not measured: name the undefended model with --against")
    rules.write_text("require:\n  linkage: {at_most: 1.0}\n")
    assert answer("audit", folder / "audited", "--suite", "tiny", *BOUNDS, "--policy", rules)[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("require:\n  linkgae: {at_most: 0.5}\n", "require.linkgae: no such setting; did you mean 'linkage'?"),
        ("require:\n  linkage: {}\n", "require.linkage is {}; expected at_least, at_most or both"),
        ("require:\n  linkage: 0.5\n", "require.linkage is 0.5; "),
        ("thresholds:\n  hides_share: 7\n", "thresholds.hides_share is 7; expected "),
        ("require:\n  linkage: {at_most: .nan}\n", "require.linkage.at_most is nan; expected a finite number"),
        ("require:\n  mse: {at_least: 2, at_most: 1}\n", "expected at_least to be no more than at_most"),
        ("require:\n  linkage:\n", "require is {'linkage': None}; linkage is empty; expected a limit such as"),
        (
            "require:\n  reidentified: {at_most: 40}\n",
            "expected numbers between 0 and 1, such as {at_most: 0.4} for 40 %",
        ),
        ("require:\n  verdict: []\n", "require.verdict is []; "),
        (
            "require:\n  verdict: reduces leakage\n",
            "require.verdict is 'reduces leakage'; expected a list of the levels",
        ),
        ("require:\n  verdict: [safe]\n", "require.verdict.0 is 'safe'; expected "),
        ("- a\n", "holds no settings"),
    ],
)
def test_a_bad_policy_is_refused_before_anything_runs(folder, text, said):
    (folder / "policy.yaml").write_text(text)
    before = state_of(folder / "noise")
    code, error = answer("audit", folder / "noise", "--suite", "tiny", "--policy", folder / "policy.yaml")
    assert code == 2
    assert said in error
    assert error.count("\n") == 1
    assert state_of(folder / "noise") == before


def of_other_images(folder: Path) -> None:
    """Make a run that says that it is of another image set, and one of other test images."""
    for name in ("elsewhere", "shorter"):
        shutil.copytree(folder / "plain", folder / name)
        kept = json.loads((folder / name / "summary.json").read_text())
        changed = {"test_digest": "other"} if name == "shorter" else {}
        write_json(folder / name / "summary.json", {**kept, "settings": {}, **changed})  # earlier versions kept none
    settings = (folder / "elsewhere" / "config.yaml").read_text()
    (folder / "elsewhere" / "config.yaml").write_text(settings.replace("data: digits", "data: cifar10"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bounds", "mixtrue"], "did you mean 'mixture'"),
        (["--suite", "quick-v9"], "did you mean"),
        (["--attacked", "4000"], "ask for 1 to that many"),
        (["--attacker-size", "10", "--attacked", "20"], "has 10 images, too few to tell which attack is best"),
        (["--against", "{folder}/other", "--attacked", "20"], "compare runs of the same --seed"),
        (
            ["--against", "{folder}/fewer", "--attacked", "20"],
            "has other training images and labels than {folder}/noise; expected a",
        ),
        (["--against", "{folder}/noise"], "is the audited model itself; expected another one"),
        (["--against", "{folder}/audited"], "is the audited model itself; expected another one"),
        (["--against", "{folder}/elsewhere"], "was trained on cifar10, {folder}/noise on digits; expected a reference"),
        (["--against", "{folder}/shorter"], "has other test images than {folder}/noise; expected a reference"),
        (["--against", "{folder}/none"], "is no run"),
        (["--policy", "{folder}/none.yaml"], "cannot read"),
        (["--max-drop", "2"], "--max-drop says nothing without --layers"),
        (["--layers", "all", "--format", "html", "--attacked", "3"], "--suite, --format says nothing with --layers"),
    ],
)
def test_bad_input_is_one_line(folder, options, said):
    chosen, said = [] if "--suite" in options else ["--suite", "tiny"], said.format(folder=folder)
    of_other_images(folder)
    code, error = answer("audit", folder / "noise", *chosen, *(text.format(folder=folder) for text in options))
    assert (code, said in error, error.count("\n")) == (2, True, 1), error
    assert not (folder / "noise" / "audit" / "audit.json").exists()
    assert not (folder / "noise" / "attacks").exists()  # nothing that takes long has begun


@pytest.mark.parametrize("damage", ["", "{}", '{"asked": {}, "estimates": [{}], "refused": null}'])
def test_a_damaged_bound_is_one_line(folder, damage):
    path = folder / "audited" / "audit" / "bounds" / "pairwise.json"
    path.write_text(damage)
    code, error = answer("audit", folder / "audited", "--suite", "tiny", *BOUNDS)
    assert code == 2
    assert str(path) in error
    assert "remove it" in error
    assert error.count("\n") == 1


def test_pictures_of_an_attack_that_kept_only_some_are_chosen_among_those(folder):
    assert answer("attack", folder / "noise", "--suite", "tiny", "--attacked", "40", "--reidentify")[0] == 0
    found = audit(folder / "noise", "--attacked", "40")
    assert {picture["image"] for picture in found["pictures"].values()} <= {*spread(40, 10)}


def test_too_few_images_for_bounds_are_said_and_the_attacks_count(folder, tmp_path):
    options = " ".join(TRAIN).replace("--test-size 40", "--test-size 12").split()
    assert answer("train", *options, "--defense", "gaussian:1", "--out", tmp_path / "few")[0] == 0
    found = audit(tmp_path / "few")
    assert not found["bounds"]
    assert all("at least 20" in reason for reason in found["refused"].values())
    assert "There is no upper bound" in (tmp_path / "few" / "audit" / "audit.html").read_text()


def test_a_network_at_chance_is_flagged_in_the_audit_and_on_its_card(folder):
    code, error = answer("audit", folder / "audited", "--suite", "tiny", *BOUNDS)
    assert code == 0
    for text in (error, (folder / "audited" / "audit" / "audit.html").read_text()):
        assert "the network is not shown to be better than chance" in " ".join(text.split())


def test_an_older_suite_is_said_to_be_superseded(folder, capsys, monkeypatch):
    command = [str(word) for word in ("audit", folder / "audited", "--suite", "tiny", *BOUNDS)]
    main(command)
    assert "attacks better" not in capsys.readouterr().out
    monkeypatch.setitem(suites.SUPERSEDED, "tiny", "quick-v4")
    main(command)
    assert "tiny is kept for its earlier figures; quick-v4 attacks better" in capsys.readouterr().out


def test_without_a_judge_nothing_is_said_to_be_hidden(folder):
    found = audit(folder / "noise", "--judge-epochs", "0")
    assert found["judge"] is None
    assert found["best_attacker"]["reidentified"] is None
    assert found["seen"] is None
    assert "classifier still recognizes" not in found["verdict"]["sentence"]
    assert found["verdict"]["level"] != "hides the picture from these attacks"


def test_bounds_count_the_wires_that_the_attacker_sees():
    assert bounded.specs(None, observed=4)["dp:observed=4"].parameters == {"observed": 4}
    assert bounded.specs(["dp:observed=2"], observed=4)["dp:observed=2"].parameters == {"observed": 2}


def test_several_wires_multiply_the_leakage_that_a_policy_meets(folder):
    (folder / "policy.yaml").write_text("require:\n  leakage: {at_most: 1000}\n")
    asked = ["--observed", "3", "--policy", folder / "policy.yaml"]
    found = audit(folder / "noise", *asked)
    (leakage,) = (one["value"] for one in found["bounds"] if one["bound"] == "mixture:clusters=1")
    measured = found["policy"]["lines"][0]["measured"]
    assert float(measured.partition(" ")[0]) == pytest.approx(3 * leakage, rel=0.1)
    lower = [one for one in found["bounds"] if one["kind"] == "lower"]
    assert all(any("sees one wire of each image" in told for told in one["assumptions"]) for one in lower)
    text = (folder / "noise" / "audit" / "audit.html").read_text()
    assert (
        "one who sees a single wire finds" in found["verdict"]["sentence"]
        or "finds" not in found["verdict"]["sentence"]
    )
    assert "the 3 wires that the attacker sees tell at most as many times as much" in text


def test_how_often_a_photo_is_found_by_several_wires_is_not_told(folder):
    """It is estimated for one wire, and would be met by an attacker who sees three."""
    (folder / "policy.yaml").write_text("require:\n  linkage: {at_most: 1.0}\n")
    found = audit(folder / "noise", "--observed", "3", "--policy", folder / "policy.yaml")
    (line,) = found["policy"]["lines"]
    assert (line["met"], line["measured"].partition(":")[0]) == (False, "not measured")


def test_no_difference_in_accuracy_has_no_sign(folder):
    found = audit(folder / "noise", "--against", folder / "plain")
    found["reference"]["accuracy_difference"] = {"mean": -0.0001, "ci95": [-0.0044, 0.0041]}
    told = AUDIT.validate_python(found)
    assert "0.0 points [−0.4, 0.4] beside" in words.accuracy(told)
    assert "0.0 [−0.4, 0.4]" in [figure for _, figure in words.figures(told)]


def test_a_difference_in_accuracy_has_a_width_where_no_answer_differs(folder):
    run = runs.Run.open(folder / "noise")
    found = audits._accuracy_difference(run, run)
    assert found is not None
    assert found.lo < found.mean == 0 < found.hi


def test_bounds_with_the_same_reason_are_refused_in_one_line(folder):
    found = audit(folder / "plain", "--bounds", "channel")
    (names, reason), *others = words.refusals(AUDIT.validate_python(found))
    assert (names, others) == ("mixture:clusters=1, pairwise, channel", [])
    assert f"Nothing is said by {names}: {reason}." in (folder / "plain" / "audit" / "audit.html").read_text()


def test_pages_of_an_earlier_audit_do_not_stay_beside_a_new_record(folder):
    place = folder / "audited" / "audit"
    page = (place / "audit.html").read_text()
    assert f'<meta name="record" content="{json_digest(json.loads((place / "audit.json").read_text()))}">' in page
    assert answer("audit", folder / "audited", "--suite", "tiny", *BOUNDS, "--format", "markdown")[0] == 0
    assert not (place / "audit.html").exists()
    audit(folder / "audited")
    assert (place / "audit.html").exists()


def test_a_record_is_written_whole(folder, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    record = folder / "audited" / "audit" / "audit.json"
    record.unlink()
    monkeypatch.setattr(audits, "write_json", stop)
    assert answer("audit", folder / "audited", "--suite", "tiny", *BOUNDS)[0] == 130
    assert not record.exists()
    monkeypatch.setattr(audits, "write_json", write_json)
    assert audit(folder / "audited")["schema"] == 1


def test_layers_compare_the_cuts_instead(folder, monkeypatch):
    from splitveil.cli import _cuts

    given: dict[str, Any] = {}
    monkeypatch.setattr(_cuts, "show_cuts", lambda *names, **more: given.update(more, names=names))
    options = ["--layers", "1,2", "--out", folder / "cuts", "--data", "digits", "--max-drop", "2", "--seed", "3"]
    assert answer("audit", "resnet20", *options)[0] == 0
    assert given["names"] == ("resnet20", "1,2")
    assert (given["data"], given["terms"].max_drop, given["seed"], given["resume"]) == ("digits", 2, 3, False)
    code, error = answer("audit", "resnet20", "--layers", "all")
    assert (code, "--out" in error, error.count("\n")) == (2, True, 1)
