"""The weights of a training's epochs: which are kept, that a kill changes none, and what is refused."""

from __future__ import annotations

import pytest

from splitveil.errors import UserError
from splitveil.runs import Run
from splitveil.training import snapshots, trainer
from training_helpers import IMAGES, Killed, killer, settings


def train(out, *, progress=None, resume=False, every=None, **values):
    chosen = settings(epochs=5, choose="last", **values)
    return trainer.fit(chosen, IMAGES, out, progress=progress, resume=resume, snapshot_every=every)


def bytes_of(out) -> dict[int, bytes]:
    return {epoch: path.read_bytes() for epoch, path in snapshots.kept(out).items()}


def test_every_second_epoch_and_the_last_are_kept_and_nothing_else_changes(tmp_path, small):
    train(tmp_path / "plain")
    train(tmp_path / "kept", every=2)
    assert not (tmp_path / "plain" / snapshots.SNAPSHOTS).exists()
    assert list(snapshots.kept(tmp_path / "kept")) == [2, 4, 5]
    for name in ("model.safetensors", "config.yaml"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes()
    found = bytes_of(tmp_path / "kept")
    assert found[5] == (tmp_path / "kept" / "model.safetensors").read_bytes() != found[4]
    run = Run.open(tmp_path / "kept")
    early, served = (run.model(IMAGES, path) for path in (snapshots.place(run.path, 2), None))
    assert early.defense.leakage() != served.defense.leakage()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(("epoch", "again"), [(3, None), (2, 2)])
def test_a_killed_training_keeps_the_same_whether_or_not_the_flag_is_given_again(tmp_path, small, epoch, again):
    train(tmp_path / "whole", every=2)
    with pytest.raises(Killed):
        train(tmp_path / "killed", every=2, progress=killer(epoch, 0))
    train(tmp_path / "killed", every=again, resume=True)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_killed_between_snapshot_and_checkpoint_it_makes_the_snapshot_again(tmp_path, small, monkeypatch):
    train(tmp_path / "whole", every=1)

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_tensors", killed)
        with pytest.raises(Killed):
            train(tmp_path / "killed", every=1)
    assert list(snapshots.kept(tmp_path / "killed")) == [1]
    snapshots.place(tmp_path / "killed", 1).write_bytes(b"another")
    train(tmp_path / "killed", resume=True)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_what_cannot_be_kept_is_refused(tmp_path, small):
    for every in (0, 6):
        with pytest.raises(UserError, match=f"--snapshots is {every}; expected 1 to 5"):
            train(tmp_path / "never", every=every)
    assert not (tmp_path / "never").exists()
    train(tmp_path / "plain")
    with pytest.raises(UserError, match="begun without --snapshots"):
        train(tmp_path / "plain", every=1, resume=True)
    with pytest.raises(Killed):
        train(tmp_path / "kept", every=2, progress=killer(3, 0))
    with pytest.raises(UserError, match="begun with --snapshots 2, now 1"):
        train(tmp_path / "kept", every=1, resume=True)
