"""Every file of a finished run and of a finished grid, damaged in every way: the right result, or one line."""

import hashlib
import io
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib.lines import Line2D
from matplotlib.text import Text
from safetensors.torch import load_file, save_file

from commands import TRAIN, answer, state_of
from damage import STRANGE, changed, entries, json_damage, texts
from report_helpers import add, cell
from splitveil.bench.cells import Grid
from splitveil.bench.driver import describe
from splitveil.report import plots


def line_damage(text):
    lines = text.splitlines()
    yield from texts(text)
    for damaged in list(json_damage(lines[0]))[10:]:
        yield "\n".join([damaged, *lines[1:]]) + "\n"


def yaml_damage(text):
    yield from texts(text)
    value = yaml.safe_load(text)
    for number, path in enumerate(entries(value)):
        for strange in (STRANGE[(number * 3 + i) % 7] for i in range(2)):
            yield yaml.safe_dump(changed(value, path, strange))


def csv_damage(text):
    yield from texts(text)
    head, first, *rest = text.splitlines()
    cells = first.split(",")
    for i in range(len(cells)):
        for new in ("", "nan", "inf", "x", "1e999", "1,1"):
            yield "\n".join([head, ",".join([*cells[:i], new, *cells[i + 1 :]]), *rest]) + "\n"
    yield "\n".join([head, *rest]) + "\n"
    yield "\n".join([head, first, first, *rest]) + "\n"
    yield "\n".join(["a,b", first, *rest]) + "\n"


def checkpoint_damage(data):
    yield from (b"", data[: len(data) // 2], b"PK\x03\x04", b"\x80\x02.", b"{}" * 100)
    saved = torch.load(io.BytesIO(data), weights_only=True)
    strange = [None, "text", [], {}, math.nan, 10**30, -5, {"x": torch.zeros(2)}, [None]]

    def few(number):
        """Four of them for each entry, others for the next one: all of them meet all kinds of entries."""
        return [strange[(number * 4 + i) % len(strange)] for i in range(4)]

    variants = [{**saved, key: new} for i, key in enumerate(saved) if key != "settings" for new in few(i)]
    variants += [
        {k: v for k, v in saved.items() if k != key} for key in saved if key not in ("images", "wire", "chosen")
    ]  # older versions have none of these
    state = saved["state"]
    variants += [{**saved, "state": {**state, key: new}} for i, key in enumerate(state) for new in few(i)]
    variants += [{**saved, "state": {**state, "new": 1}}, [saved], 7]
    for variant in variants:
        file = io.BytesIO()
        torch.save(variant, file)
        yield file.getvalue()


def weights_damage(data, scratch):
    yield from (b"", data[: len(data) // 2], b"\xff" * 100, data[:8], b"[" * 1000)
    scratch.write_bytes(data)
    tensors = load_file(scratch)
    first = next(name for name, value in tensors.items() if name.startswith("encoder.") and value.ndim == 4)
    for new in (None, torch.zeros(1), torch.full_like(tensors[first], math.nan), tensors[first].to(torch.int32)):
        save_file({k: v for k, v in {**tensors, first: new}.items() if v is not None}, scratch)
        yield scratch.read_bytes()


def holds(folder: Path, file: Path, damaged, *command):
    """Damage ``file``, run ``command``: exit 0, or exit 2 with one line and nothing in ``folder`` changed."""
    whole = file.read_bytes()
    file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    try:
        before = state_of(folder)
        code, error = answer(*command)
        if code:
            assert code == 2, (code, error, damaged[:300])
            assert error.count("\n") == 1, (error, damaged[:300])
            assert len(error) < 1000, error
            assert state_of(folder) == before, damaged[:300]
        return code, error
    finally:
        file.write_bytes(whole)


@pytest.fixture
def small_copy(small, small_run, tmp_path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("summary.json", json_damage),
        ("attacks/linear/summary.json", json_damage),
        ("attacks/linear/per_image.csv", csv_damage),
        ("test.csv", csv_damage),
        ("config.yaml", yaml_damage),
    ],
)
def test_a_damaged_run_is_compared_or_refused_in_one_line(small_run, small_copy, name, damage):
    refused = 0
    for damaged in damage((small_copy / name).read_text()):
        code, error = holds(small_copy, small_copy / name, damaged, "compare", small_run, small_copy)
        refused += code == 2
        assert code == 0 or "run" in error
    assert refused > 10


def test_a_damaged_configuration_is_not_trained(small_copy, tmp_path):
    for damaged in yaml_damage((small_copy / "config.yaml").read_text()):
        (tmp_path / "config.yaml").write_text(damaged)
        code, error = answer("train", "--config", tmp_path / "config.yaml", "--out", small_copy)
        assert code == 2
        assert error.count("\n") == 1, (error, damaged)


def test_a_damaged_checkpoint_is_not_gone_on_with(small_copy):
    (small_copy / "summary.json").unlink()
    checkpoint = small_copy / "checkpoint" / "last.pt"
    for damaged in checkpoint_damage(checkpoint.read_bytes()):
        code, error = holds(small_copy, checkpoint, damaged, "train", *TRAIN, "--out", small_copy, "--resume")
        assert code == 2, damaged
        assert "last.pt" in error
    assert answer("train", *TRAIN, "--out", small_copy, "--resume")[0] == 0


def test_damaged_weights_are_not_attacked(small_copy, tmp_path):
    weights, file = small_copy / "model.safetensors", small_copy / "summary.json"
    summary = json.loads(file.read_text())
    assert summary.pop("weights") == hashlib.sha256(weights.read_bytes()).hexdigest()
    file.write_text(json.dumps(summary))  # as earlier versions wrote it: what is damaged must be found by itself
    for damaged in list(weights_damage(weights.read_bytes(), tmp_path / "scratch.safetensors")):
        code, error = holds(small_copy, weights, damaged, "attack", small_copy, "--attack", "linear")
        assert code == 2, error
        assert "model.safetensors" in error


def test_other_weights_than_those_of_the_summary_are_not_attacked(small_copy, tmp_path):
    """The weights of another run were attacked and exported beside the accuracy of this one."""
    weights = small_copy / "model.safetensors"
    other = {name: value + 1 if name.endswith("bias") else value for name, value in load_file(weights).items()}
    save_file(other, tmp_path / "other.safetensors")
    damaged = (tmp_path / "other.safetensors").read_bytes()
    code, error = holds(small_copy, weights, damaged, "attack", small_copy, "--attack", "linear")
    assert code == 2
    assert "was replaced since" in error


def test_a_folder_in_the_place_of_a_result_is_named(small_copy):
    (small_copy / "attacks" / "nearest" / "summary.json").mkdir(parents=True)
    code, error = answer("attack", small_copy, "--attack", "nearest", "--attacked", "4")
    assert (code, error.count("\n")) == (2, 1)
    assert "summary.json" in error


def test_an_accuracy_that_was_not_measured_is_said_so(small_copy):
    """Imported runs whose images were not at hand have none."""
    file = small_copy / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"accuracy": None}))
    assert answer("train", *TRAIN, "--out", small_copy, "--resume")[0] == 0


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """A finished grid of one cell."""
    out = tmp_path_factory.mktemp("grid") / "out"
    describe(Grid("small", "", (cell("gaussian:0.1"),), 0.5), out)
    add(out, cell("gaussian:0.1"), 0.5, 0.01)
    return out


DRAWN: set[str] = set()


def laid_out(figure, stem):
    """Everything of a plot but its pixels; a plot with the texts and points of an earlier one is not laid out again."""
    shown = [(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes]
    shown += [one.get_text() for one in figure.findobj(Text)]
    shown += [one.get_xydata().tolist() for one in figure.findobj(Line2D)]
    if repr(shown) not in DRAWN:
        figure.draw_without_rendering()
        DRAWN.add(repr(shown))
    path = stem.with_name(f"{stem.name}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize("pattern", ["cells/*/record.json", "grids/*.json"])
def test_a_damaged_grid_is_reported_or_refused_in_one_line(grid, tmp_path, monkeypatch, pattern):
    monkeypatch.setattr(plots, "_save", laid_out)
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")  # megabytes of every page
    out = Path(shutil.copytree(grid, tmp_path / "out"))
    (file,) = out.glob(pattern)
    refused = 0
    # Those that are refused cost little; a report that succeeds is a whole page: one entry of each kind will do.
    for damaged in list(json_damage(file.read_text()))[::4]:
        before = file.read_bytes()
        code, _ = holds(out, file, damaged, "report", out)
        assert file.read_bytes() == before
        refused += code == 2
    assert refused > 2
