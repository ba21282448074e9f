"""Damaged caches of images, states of stopped attacks, notes of a grid's attempts: made anew, or one line."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from damage import STRANGE, changed, json_damage
from splitveil.bench.lease import CellLease, Owner
from splitveil.bench.worker import Attempts
from splitveil.data._decode import decode
from splitveil.errors import UserError
from splitveil.runtime import Runtime


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


def damage(data):
    """A cached array, damaged: as a file of any kind, cut, longer, of another type, order or shape."""
    yield from (b"", b"\0", data[:6], data[: len(data) // 2], data[:-1], data + b"x", b"PK\x03\x04", b"[" * 5000)
    yield from (npz(np.zeros(3, np.uint8)), npy(np.zeros((2, 3, 8, 8))), npy(np.array([{}], dtype=object)))
    for text in (b"(None,)", b"'x'", b"(10**99,)", b"((((1,))))", b"(-1, 3, 8, 8)", b"[" * 60):
        yield data.replace(b"(2, 3, 8, 8)", text)


def test_a_damaged_cache_is_decoded_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path / "cache"))
    paths = [tmp_path / f"{shade}.png" for shade in (20, 200)]
    for path in paths:
        Image.new("RGB", (8, 8), (int(path.stem),) * 3).save(path)
    found = decode(paths, 8, resize=False, label="x").clone()
    (cached,) = (tmp_path / "cache").iterdir()
    whole = cached.read_bytes()
    for damaged in damage(whole):
        cached.write_bytes(damaged)
        assert torch.equal(decode(paths, 8, resize=False, label="x"), found), damaged[:80]
        assert cached.read_bytes() == whole
        assert len(list(cached.parent.iterdir())) == 1


def stopped(folder):
    """A loop as an attack has it, in its third of five steps, with all kinds of state."""
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters())
    state = {"net": net, "optimizer": optimizer, "x": torch.zeros(3), "best": math.inf, "curve": [], "weights": {}}
    state["parts"] = []
    return Runtime(store=folder).loop("fit", 5, state, torch.Generator())


def states(saved):
    for key in ("state", "rng", "counts", "elapsed", "share"):
        for new in (None, "text", [], {}, math.nan, 10**30, -5, [None]):
            if (key, new) not in (("elapsed", 10**30), ("elapsed", math.nan)):
                yield {**saved, key: new}
    for key in saved["state"]:
        for new in (None, "text", [None], {"x": None}, [["x"]], [{}], {1: torch.zeros(2)}, torch.zeros(7)):
            if not (key in ("curve", "parts") and isinstance(new, list) and not new):
                yield {**saved, "state": {**saved["state"], key: new}}
    for key in saved["counts"]:
        for new in (None, "text", -1, 6, 5, []):
            if key not in ("step_seconds", "seconds", "error") or not isinstance(new, int):
                yield {**saved, "counts": {**saved["counts"], key: new}}


def test_a_damaged_state_of_an_attack_is_one_line(tmp_path):
    loop = stopped(tmp_path)
    loop.state |= {"best": 0.5, "curve": [0.7, 0.5], "weights": {"w": torch.ones(2)}, "parts": [[torch.ones(2)] * 2]}
    loop.done, loop.seconds = 2, 1.0
    loop.runtime.save(loop)
    path = tmp_path / "000.pt"
    whole = path.read_bytes()
    again = stopped(tmp_path)
    again.runtime.restore(again)
    assert (again.done, again.state["curve"]) == (2, [0.7, 0.5])
    files = [b"", whole[:100], whole[: len(whole) // 2], b"PK\x03\x04"]
    for damaged in states(torch.load(path, weights_only=True)):
        file = io.BytesIO()
        torch.save(damaged, file)
        files.append(file.getvalue())
    for damaged in files:
        path.write_bytes(damaged)
        other = stopped(tmp_path)
        with pytest.raises(UserError, match=r"^[^\n]*000\.pt [^\n]*remove [^\n]* to begin the attack again$"):
            other.runtime.restore(other)


def test_damaged_notes_of_attempts_and_locks_of_a_grid(tmp_path):
    note = tmp_path / "tries.json"
    text = json.dumps({"total": 2, "counted": 1, "error": "killed", "running": None})
    for damaged in json_damage(text):
        note.write_text(damaged)
        with contextlib.suppress(UserError):
            found = Attempts.read(note)
            assert min(found.total, found.counted) >= 0
    path = tmp_path / "cell.lock"
    lease = CellLease(path)
    assert lease.claim("job")
    about = path.with_suffix(".json")
    owner, whole = json.loads(about.read_text()), about.read_bytes()
    for new in STRANGE:
        for place in (("pid",), ("host",), ("token",), ("job",)):
            about.write_text(json.dumps(changed(owner, place, new)))
            assert isinstance(lease.owner(), Owner)
    for damaged in (b"", whole[:20], b"\xff\xfe", b"[" * 100_000, b"null"):
        about.write_bytes(damaged)
        found = CellLease(path).owner()
        assert found
        assert (found.job, found.pid) == ("", owner["pid"])
        assert not CellLease(path).claim()
    lease.release()
    assert not path.exists()
