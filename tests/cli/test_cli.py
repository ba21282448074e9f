"""The command as a user meets it: one line and exit code 2 for bad input, files and a table for good input."""

import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from rich.cells import cell_len

from forked import FORK
from splitveil.cli import _shared, main
from splitveil.registry import Registry
from splitveil.storage import files

TINY = ["--data", "digits", "--train-size", "60", "--test-size", "60", "--arch", "resnet20_sgm", "--epochs", "1"]
NOISE = ["--cut", "4", "--bottleneck", "2", "--defense", "gaussian:0.1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    main(["train", *TINY[:-1], "2", *NOISE, "--defense", "cem:16", "--out", str(out)])
    return out


def refused(capsys, *tokens: object) -> str:
    """The one line that a refused command leaves on standard error."""
    with pytest.raises(SystemExit) as stop:
        main([str(token) for token in tokens])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("splitveil: ")
    assert error.count("\n") == 1
    return error


def test_a_run_folder_holds_what_the_design_says(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["defense"] == [{"gaussian": {"sigma": 0.1}}, config["defense"][1]]
    assert config["defense"][1]["cem"]["weight"] == 16
    summary = json.loads((run / "summary.json").read_text())
    low, high = summary["accuracy"]["ci95"]
    assert 0 <= low <= summary["accuracy"]["mean"] <= high <= 1
    assert summary["wire"] == {"shape": [2, 16, 16], "bytes": 2048}
    assert {"model.safetensors", "checkpoint", "metrics.jsonl"} <= {p.name for p in run.iterdir()}


def test_attack_prints_a_table_and_leaves_its_files(run, capsys):
    main(["attack", str(run), "--attack", "linear:1", "--protocol", "train_time", "--attacked", "20"])
    shown = capsys.readouterr().out
    summary = json.loads((run / "attacks" / "linear@train_time" / "summary.json").read_text())
    rows = [re.split(" {2,}", line.strip()) for line in shown.splitlines()]
    assert ["mean image", f"{summary['baseline_mse']:.4g}"] in rows
    assert f"{summary['class_mean_mse']:.4g}" in shown
    assert "20 images attacked" in " ".join(shown.split())
    assert {p.name for p in (run / "attacks" / "linear@train_time").iterdir()} == {
        "summary.json",
        "held_out.csv",
        "per_image.csv",
        "reconstructions.npz",
        "reconstructions.png",
    }


def test_epochs_reaches_trained_attacks_only(run, capsys):
    attacks = ["--attack", "linear", "--attack", "decoder:network=conv_normN0C16"]
    main(["attack", str(run), *attacks, "--epochs", "2", "--attacked", "6"])
    capsys.readouterr()
    summary = json.loads((run / "attacks" / "decoder" / "summary.json").read_text())
    assert len(summary["curve"]) == 2


def test_attacks_that_begin_with_one_decoder_train_it_once(run, capsys):
    settings = "network=conv_normN0C8,batch_size=8,patience=4"
    decoder, refine = f"decoder:steps=8,{settings}", f"refine:steps=2,draws=1,tuning=2,start_steps=8,{settings}"
    main(["attack", str(run), "--attack", decoder, "--attack", refine, "--attacked", "6"])
    capsys.readouterr()
    assert json.loads((run / "attacks" / "refine" / "summary.json").read_text())["shared_seconds"] > 0


def test_a_suite_reports_the_worst_case(run, capsys, monkeypatch):
    from splitveil.evaluation import suites

    monkeypatch.setitem(suites.SUITES, "tiny-v1", suites.specs("linear:looks=1", "nearest:looks=1"))
    main(["attack", str(run), "--suite", "tiny-v1", "--attacked", "10", "--protocol", "train_time"])
    assert "worst case" in capsys.readouterr().out
    found = json.loads((run / "attacks" / "suite-tiny-v1@train_time.json").read_text())
    assert found["worst_case"]["mse"]["mean"] <= min(row["mse"]["mean"] for row in found["attacks"].values())
    assert sum(found["wins"].values()) == 10


def test_config_repeats_the_run_bit_by_bit(run, tmp_path, capsys):
    main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "b")])
    capsys.readouterr()
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_flags_stand_over_the_config(run, tmp_path, capsys):
    main(["train", "--config", str(run / "config.yaml"), "--seed", "3", "--out", str(tmp_path / "b")])
    capsys.readouterr()
    config = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())
    assert (config["seed"], config["bottleneck"]) == (3, 2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["--data", "digitz"], "unknown data set 'digitz'; did you mean 'digits'?"),
        (["--arch", "vgg11_bn_smg"], "did you mean 'vgg11_bn_sgm'?"),
        (["--defense", "gausian:0.1"], "did you mean 'gaussian'?"),
        (["--defense", "gaussian:-0.1"], "gaussian: sigma is -0.1; expected a number from 0"),
        (["--defense", "cem:-1"], "cem: weight is -1; expected a number from 0"),
        (["--defense", "cem:16"], "needs noise on the wire"),
        (["--defense", "cem:wait=16"], "has no parameter 'wait'; did you mean 'weight'?"),
        (["--cut", "99"], "expected a whole number from 1 to"),
        (["--bottleneck", "999"], "999"),
        (["--bottleneck", "8", "--bottleneck-kernel", "99"], "99"),
        (["--epochs", "0"], "epochs is 0; expected a whole number from 1 to 1000000"),
        (["--epochs", "many"], "epochs is 'many'; expected a whole number from 1 to 1000000"),
        (["--epoch", "3"], "--epochs"),
        (["--train-size", "100000"], "100000"),
        (["--protocol", "train_tme"], "did you mean 'train_time'?"),
    ],
)
def test_bad_settings_are_one_line_and_write_nothing(changes, expected, tmp_path, capsys):
    flags = {"--cut": "4", **dict(zip(TINY[::2], TINY[1::2], strict=True))}
    for flag in changes[::2]:
        flags.pop(flag, None)
    kept = [token for pair in flags.items() for token in pair]
    line = refused(capsys, "train", *kept, *changes, "--out", tmp_path / "a")
    assert expected in line
    assert not (tmp_path / "a").exists()


def test_a_cut_network_names_the_crossing_tensor(tmp_path, capsys):
    arch = ["--data", "digits", "--arch", "torchvision:resnet18@layer2.0.conv1", "--epochs", "1"]
    line = refused(capsys, "train", *arch, "--out", tmp_path / "a")
    assert "layer2.0.conv1" in line
    assert "layer1" in line


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
@pytest.mark.parametrize(
    "command", [["legacy", "--lambd", "16"], ["train", "--help"], ["train", "--data", "λ", "--out", "x"]]
)
def test_a_console_that_lacks_a_letter_gets_its_number(encoding, command, monkeypatch):
    shown = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(shown, encoding=encoding, write_through=True))
    code = 0
    try:
        main(command)
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2 * ("λ" in command)
    if "--help" not in command:
        assert b"\\u03bb" in shown.getvalue() or b"\\u2212" in shown.getvalue()


@pytest.mark.parametrize("name", ["my run (1)", "a'b", "$HOME"])
def test_proposed_commands_can_be_pasted_into_a_shell(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    main(["train", *TINY, *NOISE, "--out", name])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("attack it: "))
    assert shlex.split(line.removeprefix("attack it: ")) == ["splitveil", "attack", name, "--attack", "decoder"]
    shutil.copytree(name, "other")
    missing = refused(capsys, "compare", name, "other")
    assert shlex.split(missing.split("make one: ")[1]) == ["splitveil", "attack", name, "--attack", "decoder"]
    (tmp_path / name / "summary.json").unlink()
    again = shlex.split(refused(capsys, "attack", name, "--attack", "linear").split("`")[1])
    assert again == ["splitveil", "train", "--config", f"{name}/config.yaml", "--out", name, "--resume"]


def test_an_existing_run_is_not_overwritten(run, capsys):
    assert "--resume" in refused(capsys, "train", *TINY, *NOISE, "--out", run)


def test_resume_with_other_settings_names_them(run, capsys):
    line = refused(capsys, "train", "--config", run / "config.yaml", "--lr", "0.1", "--out", run, "--resume")
    assert "lr was 0.05, now 0.1" in line


def test_image_folders_that_cannot_be_used(tmp_path, capsys):
    assert "train/" in refused(capsys, "train", *TINY[2:], "--data", f"folder:{tmp_path}", "--out", tmp_path / "a")
    missing = tmp_path / "none"
    assert "none" in refused(capsys, "train", *TINY[2:], "--data", f"folder:{missing}", "--out", tmp_path / "a")


def test_a_truncated_image_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path / "cache"))
    from PIL import Image

    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "set" / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.effect_noise((32, 32), 60).convert("RGB").save(folder / f"{number}.png")
    broken = tmp_path / "set" / "train" / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    tokens = ["--data", f"folder:{tmp_path / 'set'}", "--arch", "resnet20", "--cut", "2", "--epochs", "1"]
    assert str(broken) in refused(capsys, "train", *tokens, "--out", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_copies_of_test_images_that_are_not_trained_on_are_counted(tmp_path, capsys):
    from PIL import Image

    for part, count in (("train", 20), ("test", 8)):
        for name in ("cat", "dog"):
            folder = tmp_path / "set" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.effect_noise((32, 32), 60).convert("RGB").save(folder / f"{number}.png")
    for number in range(3):
        shutil.copy(tmp_path / "set/test/dog" / f"{number}.png", tmp_path / "set/train/dog" / f"copy{number}.png")
    tokens = ["--data", f"folder:{tmp_path / 'set'}", "--arch", "resnet20_sgm", "--cut", "2", "--epochs", "1"]
    main(["train", *tokens, "--out", str(tmp_path / "a"), "--batch-size", "16"])
    shown = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert "without 3 copies of images that validate or test" in shown


def test_attacks_that_cannot_run(run, tmp_path, capsys):
    assert "did you mean 'decoder'?" in refused(capsys, "attack", run, "--attack", "decodr")
    assert "is no run" in refused(capsys, "attack", tmp_path, "--attack", "linear")
    assert "either --attack NAME" in refused(capsys, "attack", run)
    assert "did you mean 'quick-v1'?" in refused(capsys, "attack", run, "--suite", "quik-v1")
    assert "--protocol auxiliary" in refused(capsys, "attack", run, "--attack", "linear", "--protocol", "auxiliary")
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    assert "is not finished" in refused(capsys, "attack", tmp_path, "--attack", "linear")


def test_damaged_weights_are_named(run, tmp_path, capsys):
    for name in ("config.yaml", "summary.json"):
        (tmp_path / name).write_text((run / name).read_text())
    (tmp_path / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:1000])
    assert "model.safetensors" in refused(capsys, "attack", tmp_path, "--attack", "linear")


def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    line = refused(capsys, "train", *TINY, *NOISE, "--out", tmp_path / "a")
    assert "No space left on device" in line
    assert not [p for p in (tmp_path / "a").rglob("*") if p.is_file()]


def test_list_shows_every_kind(capsys):
    main(["list", "defenses"])
    shown = capsys.readouterr().out
    assert "gaussian" in shown
    assert "vgg11" not in shown
    assert "sigma=0.025" in shown
    assert "expected one of" in refused(capsys, "list", "defens")


def test_list_shows_families_in_80_letters_and_every_name_where_it_is_asked(capsys, monkeypatch):
    monkeypatch.setattr(_shared.out_console, "_width", 80)
    main(["list"])
    shown = capsys.readouterr().out
    assert max(map(cell_len, shown.splitlines())) <= 80
    assert len(shown.splitlines()) < 200
    names = [line.split("  ")[0] for line in shown.splitlines()]
    assert [name for name in names if name.startswith("vgg")] == [
        "vgg11|13|16[_bn][_sgm]",
        "vgg11|13|16[_bn][_sgm]_released[_double]",
    ]
    main(["list", "networks", "--all"])
    every = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()]
    assert set(Registry("zoo").names()) <= set(every)


def meant(pattern: str) -> list[str]:
    """The names that a pattern of `splitveil list` stands for."""
    stem, depths, rest = re.fullmatch(r"([a-z]+)([\d|]*)(.*)", pattern).groups()  # type: ignore[union-attr]
    names = [stem + depth for depth in depths.split("|")]
    for optional, needed in re.findall(r"\[(_[a-z0-9]+)\]|(_[a-z0-9]+)", rest):
        names = [name + end for name in names for end in ((optional, "") if optional else (needed,))]
    return names


def test_a_family_stands_for_exactly_its_names():
    families = Registry("zoo").families()
    assert sorted(name for names, _ in families for name in names) == Registry("zoo").names()
    for names, shown in families:
        assert sorted(names) == sorted(shown.split(", ") if "@" in shown else meant(shown))


def interruptible(log: Path, tokens: list[str]) -> None:
    """A command as a shell in front runs it: those in the background, and their children, do not hear SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w", encoding="utf-8") as sys.stderr:
        main(tokens)


def test_interrupt_is_exit_code_130_and_the_run_resumes(tmp_path, small):
    out = tmp_path / "a"
    train = [*TINY[:-1], "500", *NOISE, "--out", str(out)]
    process = FORK.Process(target=interruptible, args=(tmp_path / "log", ["train", *train]))
    process.start()
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    said = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert said[-1] == "splitveil: stopped; finished epochs are kept, --resume goes on"
    assert not list(out.rglob("*.tmp*"))


def test_a_dry_run_prints_the_plan_and_writes_nothing(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    main(["attack", str(run), "--attack", "rmle:steps=9,tv=0,l2=1", "--attacked", "4", "--dry-run"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "nothing was written" in shown
    assert "rmle exact 9" in shown
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_dry_run_of_a_suite_names_what_is_left_out(run, capsys, monkeypatch):
    from splitveil.data import Access
    from splitveil.evaluation import stage, suites

    whole = stage.parts
    monkeypatch.setattr(stage, "parts", lambda *of: replace(whole(*of), grants=frozenset({Access.QUERY})))
    monkeypatch.setitem(suites.SUITES, "tiny-v1", suites.specs("linear:looks=1", "confidence:epochs=1"))
    main(["attack", str(run), "--suite", "tiny-v1", "--attacked", "4", "--dry-run"])
    assert "left out: confidence: the protocol does not grant logits" in capsys.readouterr().out


def test_a_budget_ends_an_attack_and_says_so(run, capsys):
    attack = "decoder:network=conv_normN0C16,batch_size=8"
    main(["attack", str(run), "--attack", attack, "--budget", "3", "--attacked", "6"])
    assert "the budget ended decoder after 3 of" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", ["decoder:steps=9", "gan:steps=9", "refine:start_steps=9"])
def test_epochs_are_refused_where_steps_take_their_place(run, capsys, text):
    assert "=9 in place of epochs; leave one of them out" in refused(
        capsys, "attack", run, "--attack", text, "--epochs", "2"
    )


def test_bad_budgets_and_observations(run, capsys):
    assert "the budget is '0'; expected more than 0" in refused(
        capsys, "attack", run, "--attack", "linear", "--budget", "0"
    )
    assert "observed is 0; expected at least 1 wire" in refused(
        capsys, "attack", run, "--attack", "linear", "--observed", "0"
    )
    assert "a suite is frozen; leave --epochs and --budget out" in refused(
        capsys, "attack", run, "--suite", "quick-v1", "--budget", "9"
    )
    assert "leave --dry-run or --budget out" in refused(
        capsys, "attack", run, "--attack", "linear", "--budget", "9", "--dry-run"
    )


def test_epochs_of_attacks_that_have_none_are_refused(run, capsys):
    both = "attack", run, "--attack", "linear", "--attack", "nearest", "--epochs", "2"
    assert "--epochs is 2, but there are none in linear, nearest; leave --epochs out" in refused(capsys, *both)


def test_further_metrics_are_printed_and_kept(run, capsys, monkeypatch, tmp_path):
    from splitveil.evaluation import reidentification

    class Fair:
        def metrics(self):
            return {
                "reidentified": lambda found, truth, labels: torch.arange(len(labels)) < 10,
                "recognized": lambda *_: _[2] >= 0,
            }

    monkeypatch.setattr(reidentification, "judge_for", lambda *_, **__: Fair())
    options = ["--attacked", "20", "--protocol", "train_time", "--reidentify"]
    main(["attack", str(run), "--attack", "linear:looks=1", *options])
    assert "50.00%" in capsys.readouterr().out
    summary = json.loads((run / "attacks" / "linear@train_time" / "summary.json").read_text())
    assert summary["reidentified"]["mean"] == 0.5
    assert 0.2 < summary["reidentified"]["ci95"][0] < 0.5 < summary["reidentified"]["ci95"][1] < 0.8
    assert summary["recognized"]["mean"] == 1
    rows = (run / "attacks" / "linear@train_time" / "per_image.csv").read_text().splitlines()
    assert rows[0] == "image,mse,psnr,ssim,ssim_zero,reidentified,recognized,wire_distance,class_mean_mse"
    none = tmp_path / "none.pth"
    assert f"cannot read {none}" in refused(capsys, "attack", run, "--attack", "linear", "--lpips", none)
