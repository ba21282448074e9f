"""Grid files that are refused, each in one line that says what to do."""

from __future__ import annotations

import pytest
import yaml

from bench_grid_helpers import loader, message
from splitveil.bench import grid, grid_file
from splitveil.bench.grid import BASELINE_SIGMAS, load_grid
from splitveil.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_weights")


@pytest.fixture
def load(tmp_path):
    return loader(tmp_path)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"grids": {}}, "grids: no such key of a grid file; did you mean 'grid'?"),
        ({"epochs": 3}, "epochs: no such key of a grid file; it is a setting: put it under base"),
        ({"qqq": 3}, "qqq: no such key of a grid file; expected one of: name, description, base, grid"),
        ({"grid": {"epoch": [3]}}, "grid: epoch is no setting, and no text names {epoch}; did you mean 'epochs'?"),
        ({"grid": {"qq": [3]}}, "grid: qq is no setting, and no text names {qq}; write {qq} where its values belong"),
        ({"zip": {"sede": [3]}}, "zip: sede is no setting, and no text names {sede}; did you mean 'seed'?"),
        ({"include": [{"sede": 3}]}, "include 1: sede is no setting, and no text names {sede}; did you mean 'seed'?"),
        ({"exclude": [{"sede": 3}]}, "exclude 1: sede is neither a setting nor an axis; did you mean 'seed'?"),
        ({"exclude": [{"seed": 3}]}, "exclude 1 (seed: 3) matches no cell; correct it or leave it out"),
        ({"exclude": [{"epochs": 3}]}, "exclude leaves no cell of the grid"),
        ({"grid": {"seed": []}}, "grid: seed is an empty list, so there is no cell; give it values or leave it out"),
        ({"grid": {"seed": 3}}, "grid: seed is 3; expected lists of values by name, such as grid: {epochs: [60, 240]}"),
        ({"grid": [1]}, "grid is [1]; expected lists of values by name, such as grid: {epochs: [60, 240]}"),
        ({"zip": {"seed": [1, 2], "cut": [3]}}, "zip: its lists are not equally long (seed 2, cut 1)"),
        ({"zip": {"cut": [3]}, "grid": {"cut": [2]}}, "cut has values in grid and in zip; give them once"),
        ({"grid": {"seed": [3]}, "seeds": 2}, "seed is in grid, and seeds is given; give one of the two"),
        ({"seeds": 0}, "seeds is 0; expected how many (3 for 0, 1, 2) or a list of them"),
        ({"seeds": []}, "seeds is []; expected how many"),
        ({"seeds": [1, "a"]}, "seeds 2 is 'a'; expected how many"),
        ({"seeds": True}, "seeds is True; expected how many"),
        ({"seeds": 10**9}, "seeds is 1000000000; expected how many"),
        ({"include": {"seed": 3}}, "include is {'seed': 3}; expected a list of settings"),
        ({"include": [{"seed": []}]}, "include 1: seed is an empty list"),
        ({"attacks": []}, "attacks is []; expected a list, such as [published/decoder, linear]"),
        ({"attacks": ["decodr"]}, "unknown attack 'decodr'; did you mean 'decoder'?"),
        ({"attacks": ["decoder:epochs=0"]}, "decoder: epochs is 0"),
        ({"attacks": ["decoder:"]}, "attacks: settings is 'decoder:'; 'decoder:' is no plug-in"),
        ({"attacks": ["decoder", "decoder:epochs=3"]}, "two attacks are called decoder"),
        ({"attacks": ["linear"], "suite": "quick-v1"}, "the file names attacks and a suite; give one of the two"),
        ({"suite": "quik-v1"}, "unknown suite 'quik-v1'; did you mean 'quick-v1'?"),
        ({"attacked": 1}, "attacked is 1; expected one number of images, at least 2"),
        ({"attacker_size": "all"}, "attacker_size is 'all'; expected one number of images, at least 2"),
        ({"attacker_size": [9, 8]}, "attacker_size is [9, 8]; expected one number of images, at least 2, the same for"),
        ({"attacked": 37}, "attacked is 37, but under protocol inference_time digits has 36 images to reconstruct"),
        ({"attacker_size": 325}, "attacker_size is 325, but under protocol inference_time digits has 324 images for"),
        ({"attacks": ["decoder:epochs={ep}"], "grid": {"ep": [1, 2]}}, "attacks names {ep}, but attacks are the same"),
        ({"suite": ["quick-v1"]}, "suite is ['quick-v1']; expected the name of a suite, such as suite: quick-v4"),
        ({"name": ["a"]}, "name is ['a']; expected one line of at most 200 letters, such as name: my-grid"),
        ({"name": 2024}, "name is 2024; expected one line"),
        ({"name": "a\0b"}, "name is 'a\\x00b'; expected one line of at most 200 letters"),
        ({"name": "x" * 300}, f"name is '{'x' * 56}...; expected one line of at most 200 letters"),
        ({"description": "a\nb"}, "description is 'a\\nb'; expected one line"),
        ({"description": {"a": 1}}, "description is {'a': 1}; expected one line"),
        (
            {"seeds": [1, 2**63]},
            f"seeds 2 is {2**63}; expected how many (3 for 0, 1, 2) or a list of them, such as [0, 7]; each from 0 to",
        ),
        ({"grid": {"seed": [0, 2**63]}}, f"cell seed={2**63}: seed is {2**63}; expected a whole number from 0 to"),
        ({"exclude": [{"epochs": "foo"}]}, "exclude 1: epochs is 'foo'; expected a whole number from 1 to"),
        ({"exclude": [{"epochs": 9}, {"defense": "cm:1"}]}, "exclude 2: unknown defense 'cm'; did you mean 'cem'?"),
        ({"grid": {"lambda": [1]}}, "grid: lambda is no setting, and no text names {lambda}; write {lambda} where its"),
        ({"grid": {"lable": [1]}}, "grid: lable is no setting, and no text names {lable}; did you mean 'label'? or"),
        (
            {"include": [{"lr": 0.1, "epochs": [1] * 10_000}]},
            "the grid has 10,001 cells; expected at most 5,000",
        ),
    ],
)
def test_bad_sections(load, sections, expected):
    assert message(load, **sections).startswith(expected)


@pytest.mark.parametrize(
    ("base", "sections", "expected"),
    [
        ({"epoch": 3}, {}, "base: epoch: no such setting; did you mean 'epochs'?"),
        ({"epochs": []}, {}, "base: epochs is an empty list"),
        ({"seed": 3}, {"seeds": 2}, "seed is in base, and seeds is given"),
        ({"seed": [3, 4]}, {"seeds": 2}, "seed is in base, and seeds is given"),
        ({"cut": [3]}, {"grid": {"cut": [2]}}, "cut has values in base and in grid"),
        (
            {"defense": ["gaussian:{sgima}"]},
            {"grid": {"lr": [0.1]}},
            "defense: 'gaussian:{sgima}' names {sgima}, which is no axis",
        ),
        ({"defense": ["gaussian:{sgima}"]}, {"grid": {"sigma": [0.1]}}, "grid: sigma is no setting, and no text names"),
        (
            {"defense": ["gaussian:{s}"]},
            {"grid": {"s": [[1]]}},
            "defense: {s} in 'gaussian:{s}' is [1]; expected a number",
        ),
        (
            {"defense": ["gaussian:{s:.2f}"]},
            {"grid": {"s": [0.1]}},
            "grid: s is no setting, and no text names {s}; {s:.2f} is no placeholder, which has letters, digits and _ "
            "alone, such as {s}",
        ),
        (
            {"defense": ["gaussian:{my-s}"]},
            {"zip": {"my-s": [0.1]}},
            "zip: my-s is no setting, and no text names {my-s}; {my-s} is no placeholder, which has letters, digits "
            "and _ alone, such as {my_s}",
        ),
        (
            {"defense": ["gaussian:{s}"]},
            {"grid": {"s": [0.1, 0.2]}, "include": [{"lr": 0.1}]},
            "include 1: defense names {s}, but include takes no axes of grid and zip; write its value: s: 0.1",
        ),
        ({"defense": ["{a}"]}, {"grid": {"a": ["{b}"], "b": ["{a}"]}}, "defense: the axis a names itself"),
        ({"lr": [0.1, -1]}, {}, "cell lr=-1: lr is -1; expected a number above 0"),
        ({"lr": "{x}"}, {"grid": {"x": [0.1, "a"]}, "seeds": 2}, "cell x=a, seed=0: lr is 'a'; expected"),
        ({"defense": ["gaussian:{x}"]}, {"grid": {"x": [0.1, -1]}}, "cell x=-1: gaussian: sigma is -1"),
        ({"defense": ["{x}"]}, {"grid": {"x": ["dropout:0.1", "drop:1"]}}, "cell x=drop:1: unknown defense 'drop'"),
        ({"defense": ["{x}"]}, {"grid": {"x": ["cem:a=1"]}}, "defense 'cem' has no parameter 'a'"),
        (
            {"defense": ["patrol:{x}"]},
            {"grid": {"x": [1, 3]}},
            "cell x=3: patrol acts from epoch 4 on, but the training has 3",
        ),
        (
            {"defense": ["cem:{x}", "{y}"]},
            {"grid": {"x": [1], "y": [None, "gaussian:1"]}},
            "cell y=None: cem: the bound",
        ),
        ({"defense": ["gaussian:{s}", "cem:1"]}, {"grid": {"s": [0.1, 0]}}, "cell s=0: cem: the bound needs noise"),
        ({"defense": ["dropout:0.1", "dropout:0.2"]}, {}, "defense 'dropout' was given twice"),
        ({"data": ["digits", "digts"]}, {}, "cell data=digts: unknown data set 'digts'; did you mean 'digits'?"),
        ({"arch": "resnet20_smg"}, {}, "unknown model 'resnet20_smg'; did you mean 'resnet20_sgm'?"),
        (
            {"data": "folder:x", "arch": "resnet20_smg"},
            {},
            "unknown model 'resnet20_smg'; did you mean 'resnet20_sgm'?",
        ),
        (
            {"cut": [2, 20]},
            {},
            "cell cut=20: cut 20 does not exist in resnet20_sgm; expected a whole number from 1 to 10",
        ),
        ({"cut": None}, {}, "cut is missing; give cut: in the file or --cut, 1 to 10"),
        (
            {"protocol": ["train_time", "inference_time"]},
            {"attacked": 40},
            "cell protocol=inference_time: attacked is 40, but under",
        ),
        ({"bottleneck": 99}, {}, "bottleneck channels 99 does not fit the feature"),
        ({"protocol": "train_tim"}, {}, "unknown protocol 'train_tim'; did you mean 'train_time'?"),
        ({"train_size": 2000}, {}, "train_size is 2000; digits has 1437 train images"),
        (
            {"arch": "timm:vit_tiny_patch16_224@blocks.0", "cut": None},
            {"attacks": ["linear", "shadow"]},
            "shadow: the wire is (5, 192); expected a feature map",
        ),
        ({"data": None}, {}, "data is missing; give data: in the file or --data"),
        ({"epochs": 0, "lr": 0, "defense": [3]}, {}, "epochs is 0; expected"),
    ],
)
def test_bad_cells(load, base, sections, expected):
    assert message(load, base, **sections).startswith(expected)


def test_every_error_of_a_cell_at_once(load):
    text = message(load, {"epochs": 0, "lr": 0, "defense": [3]})
    assert all(part in text for part in ("epochs is 0", "lr is 0", "defense.0 is 3"))


def test_ten_million_cells_are_refused_with_their_count(tmp_path, monkeypatch):
    monkeypatch.setattr(grid_file.GridFile, "rows", lambda self: pytest.fail("the grid was written out"))
    ten, hundred = list(range(10)), list(range(1, 101))
    path = tmp_path / "grid.yaml"
    path.write_text(
        yaml.safe_dump(
            {"base": {"data": "digits", "lr": hundred}, "zip": {"cut": ten}, "grid": {"epochs": hundred}, "seeds": 100}
        )
    )
    with pytest.raises(UserError) as error:
        load_grid(path)
    assert str(error.value) == (
        "the grid has 10,000,000 cells; expected at most 5,000: shorten a list or divide the file"
    )


def test_a_baseline_that_makes_the_grid_too_large(load, monkeypatch):
    monkeypatch.setattr(grid, "MAX_CELLS", 5)
    with pytest.raises(UserError, match="with its baseline the grid has 6 cells; expected at most 5"):
        load({"defense": ["dropout:0.1"]}, {"baseline": BASELINE_SIGMAS})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"grid: [1", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- a\n", "holds no settings"),
        (b"", "holds no settings"),
    ],
)
def test_files_that_are_no_grid(tmp_path, content, expected):
    path = tmp_path / "grid.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as error:
        load_grid(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "paper/cifra10",
            "unknown grid 'paper/cifra10'; did you mean 'paper/cifar10'? expected a YAML file or one of: paper/",
        ),
        ("smok", "unknown grid 'smok'; did you mean 'smoke'?"),
        ("none.yaml", "cannot read none.yaml: No such file or directory"),
    ],
)
def test_unknown_grids(name, expected):
    with pytest.raises(UserError) as error:
        load_grid(name)
    assert str(error.value).startswith(expected)
