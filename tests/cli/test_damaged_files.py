"""Every file of a finished run and of a finished grid, damaged in every way: the right result, or one line."""

import contextlib
import hashlib
import io
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from splitveil.cli import main

TINY = ["--data", "digits", "--train-size", "60", "--test-size", "40", "--arch", "resnet20_sgm", "--cut", "2"]
TRAIN = [*TINY, "--bottleneck", "2", "--batch-size", "32", "--epochs", "1", "--protocol", "train_time"]
GRID = {
    "name": "tiny",
    "base": {"data": "digits", "train_size": 60, "test_size": 40, "arch": "resnet20_sgm", "cut": 2, "epochs": 1}
    | {"bottleneck": 2, "batch_size": 32, "protocol": "train_time"},
    "seeds": 1,
    "attacks": ["linear"],
}
DEEP = "[" * 100_000


def entries(value, path=()):
    """The path of every entry of nested dictionaries; of a list its first."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from entries(inner, (*path, key))


def changed(value, path, new):
    """A copy of nested dictionaries with one entry replaced, or left out where ``new`` is ``changed``."""
    value = json.loads(json.dumps(value))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is changed:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


STRANGE = [changed, None, "text", [], {}, math.nan, math.inf, 10**400, -1, [[[1]]]]


def texts(text):
    """Damage that knows no format."""
    yield from ("", text[: len(text) // 2], DEEP, "[]", "null", "7", "\0\x01", "{}", text + "}", "9" * 5000)


def json_damage(text):
    value = json.loads(text)
    yield from texts(text)
    for number, path in enumerate(entries(value)):
        # Three of the strange values for each entry, others for the next one: all of them meet all kinds of entries.
        for strange in (STRANGE[(number * 3 + i) % len(STRANGE)] for i in range(3)):
            yield json.dumps(changed(value, path, strange))


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
    variants = [{**saved, key: new} for key in saved if key != "settings" for new in strange]
    variants += [
        {k: v for k, v in saved.items() if k != key} for key in saved if key not in ("images", "wire")
    ]  # older versions have neither
    variants += [{**saved, "state": {**saved["state"], key: new}} for key in saved["state"] for new in strange]
    variants += [{**saved, "state": {**saved["state"], "new": 1}}, [saved], 7]
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


def state_of(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def answer(*tokens):
    """Exit code and standard error of a command; a traceback is an error of the test."""
    error = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            main([str(token) for token in tokens])
        except SystemExit as stop:
            code = stop.code or 0
    return code, error.getvalue()


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


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("damaged") / "run"
    assert answer("train", *TRAIN, "--out", out)[0] == 0
    assert answer("attack", out, "--attack", "linear")[0] == 0
    return out


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


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
def test_a_damaged_run_is_compared_or_refused_in_one_line(run, copy, name, damage):
    refused = 0
    for damaged in damage((copy / name).read_text()):
        code, error = holds(copy, copy / name, damaged, "compare", run, copy)
        refused += code == 2
        assert code == 0 or "run" in error
    assert refused > 10


def test_a_damaged_configuration_is_not_trained(copy, tmp_path):
    for damaged in yaml_damage((copy / "config.yaml").read_text()):
        (tmp_path / "config.yaml").write_text(damaged)
        code, error = answer("train", "--config", tmp_path / "config.yaml", "--out", copy)
        assert code == 2
        assert error.count("\n") == 1, (error, damaged)


def test_a_damaged_checkpoint_is_not_gone_on_with(copy):
    (copy / "summary.json").unlink()
    checkpoint = copy / "checkpoint" / "last.pt"
    for damaged in checkpoint_damage(checkpoint.read_bytes()):
        code, error = holds(copy, checkpoint, damaged, "train", *TRAIN, "--out", copy, "--resume")
        assert code == 2, damaged
        assert "last.pt" in error
    assert answer("train", *TRAIN, "--out", copy, "--resume")[0] == 0


def test_damaged_weights_are_not_attacked(copy, tmp_path):
    weights = copy / "model.safetensors"
    for damaged in list(weights_damage(weights.read_bytes(), tmp_path / "scratch.safetensors")):
        code, error = holds(copy, weights, damaged, "attack", copy, "--attack", "linear")
        assert code == 2, error
        assert "model.safetensors" in error


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))
    assert answer("bench", folder / "grid.yaml", "--out", folder / "out")[0] == 0
    return folder / "out"


@pytest.mark.parametrize("pattern", ["cells/*/record.json", "grids/*.json"])
def test_a_damaged_grid_is_reported_or_refused_in_one_line(grid, tmp_path, pattern):
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
