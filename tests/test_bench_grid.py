"""Grid files: what their lists become, what a cell is called, and what is refused."""

from __future__ import annotations

import json
import math
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil import config, suites
from splitveil.bench import _file, grid
from splitveil.bench.grid import BASELINE_SIGMAS, Cell, load_grid
from splitveil.errors import UserError
from splitveil.legacy import read_options
from splitveil.legacy.command import run as legacy

BASE: dict[str, Any] = {"data": "digits", "arch": "resnet20_sgm", "cut": 2, "epochs": 3}
STACK = ["gaussian:{sigma}", "cem:{lambda}"]


@pytest.fixture
def load(tmp_path):
    """Load a grid from its values."""

    def load(base: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **sections: Any):
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump({"base": BASE | (base or {}), **sections}, sort_keys=False), encoding="utf-8")
        return load_grid(path, **(options or {}))

    return load


def stacks(loaded: grid.Grid) -> list[list[dict[str, Any]]]:
    """The defenses of each cell with their first parameters."""
    first = {"gaussian": "sigma", "cem": "weight", "nopeek": "weight", "dropout": "ratio", "patrol": "epoch"}
    return [[{s.name: s.parameters[first[s.name]]} for s in cell.settings.defense] for cell in loaded.cells]


# From lists to cells


def test_product_placeholders_and_seeds(load):
    loaded = load({"defense": STACK}, grid={"sigma": [0.1, 0.2], "lambda": [0, 16]}, seeds=2, name="mine")
    assert loaded.name == "mine"
    assert [cell.axes for cell in loaded.cells] == [
        {"sigma": sigma, "lambda": weight, "seed": seed} for seed, sigma, weight in product((0, 1), (0.1, 0.2), (0, 16))
    ]
    assert stacks(loaded)[:2] == [[{"gaussian": 0.1}, {"cem": 0}], [{"gaussian": 0.1}, {"cem": 16}]]
    assert [cell.settings.seed for cell in loaded.cells] == [0] * 4 + [1] * 4
    assert all(cell.settings == cell.settings.resolve() for cell in loaded.cells)


def test_rows_of_zip_are_multiplied_with_the_product(load):
    more = [None, "nopeek:0.3", ["dropout:0.2", "patrol:1"]]
    defense = ["gaussian:{sigma}", "{more}", {"cem": {"weight": "{lambda}"}}]
    loaded = load({"defense": defense}, zip={"sigma": [0.1, 0.2, 0.3], "more": more}, grid={"lambda": [0, 8]})
    assert stacks(loaded)[::2] == [
        [{"gaussian": 0.1}, {"cem": 0}],
        [{"gaussian": 0.2}, {"nopeek": 0.3}, {"cem": 0}],
        [{"gaussian": 0.3}, {"dropout": 0.2}, {"patrol": 1}, {"cem": 0}],
    ]
    assert len(loaded.cells) == 6


def test_lists_in_base_and_settings_as_axes(load):
    loaded = load(
        {"epochs": [2, 3]}, grid={"defense": ["gaussian:0.1", ["gaussian:0.2", "cem:4"]], "milestones": [[0.5]]}
    )
    assert [(c.settings.epochs, len(c.settings.defense)) for c in loaded.cells] == [(2, 1), (2, 2), (3, 1), (3, 2)]
    assert loaded.cells[0].settings.milestones == (0.5,)
    assert loaded.cells[0].axes == {"epochs": 2, "defense": ["gaussian:0.1"]}  # what does not vary is not shown


def test_exclude_and_include(load):
    loaded = load(
        {"defense": STACK},
        grid={"sigma": [0.1, 0.2, 0.3], "lambda": [0, 16]},
        exclude=[{"sigma": [0.2, 0.3], "lambda": 0}, {"sigma": 0.3, "epochs": 3}],
        include=[{"label": "none", "defense": [], "lr": [0.1, 0.2]}, {"sigma": 0.3, "lambda": 0, "seed": 7}],
    )
    main = [[{"gaussian": 0.1}, {"cem": 0}], [{"gaussian": 0.1}, {"cem": 16}], [{"gaussian": 0.2}, {"cem": 16}]]
    assert stacks(loaded) == [*main, [], [], [{"gaussian": 0.3}, {"cem": 0}]]  # include is not excluded
    assert loaded.cells[3].axes == {"label": "none", "defense": [], "lr": 0.1}
    assert loaded.cells[-1].settings.seed == 7


def test_include_takes_the_lists_of_base_and_all_seeds(load):
    loaded = load({"protocol": ["train_time", "inference_time"]}, include=[{"defense": ["gaussian:1"]}], seeds=[3, 5])
    found = [(c.settings.seed, c.settings.protocol, len(c.settings.defense)) for c in loaded.cells]
    assert sorted(found) == sorted(product((3, 5), ("train_time", "inference_time"), (0, 1)))


def test_excluded_cells_need_not_be_trainable(load):
    axes = {"epochs": [2, 5], "when": [1, 4]}
    loaded = load({"defense": ["patrol:{when}"]}, grid=axes, exclude=[{"epochs": 2, "when": 4}])
    assert len(loaded.cells) == 3


def test_an_excluded_setting_is_compared_as_it_is_resolved(load):
    written = {"defense": [["gaussian:0.1"], ["gaussian:0.2"]]}
    loaded = load(grid=written, exclude=[{"defense": [{"gaussian": {"sigma": 0.1}}], "weight_decay": 0.0005}])
    assert stacks(loaded) == [[{"gaussian": 0.2}]]


def test_equal_cells_are_one(load):
    loaded = load(
        grid={"defense": ["cem:16", "gaussian:0.1", {"gaussian": {"sigma": 0.1}}]}, exclude=[{"defense": ["cem:16"]}]
    )
    assert len(loaded.cells) == 1


def test_null_is_the_default(load):
    loaded = load({"lr": 0.1}, zip={"bottleneck": [8, None], "lr": [None, 0.2]})
    assert [(c.settings.bottleneck, c.settings.lr) for c in loaded.cells] == [(8, 0.05), (None, 0.2)]


def test_a_text_may_name_a_setting_and_a_value_another_axis(load):
    loaded = load(
        {"epochs": 5, "defense": ["{row}", "patrol:{when}"]},
        grid={"row": ["gaussian:{sigma}"], "sigma": [0.1, 0.2], "when": [4]},
    )
    assert stacks(loaded) == [[{"gaussian": 0.1}, {"patrol": 4}], [{"gaussian": 0.2}, {"patrol": 4}]]
    loaded = load({"epochs": [5, 6], "defense": ["dropout:0.{epochs}"]})
    assert stacks(loaded) == [[{"dropout": 0.5}], [{"dropout": 0.6}]]


axis = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(axis, max_size=4), st.integers(0, 3), st.integers(0, 4), st.integers(1, 3))
def test_cells_are_counted_before_they_are_made(lists, rows, included, seeds):
    values: dict[str, Any] = {
        "base": {"data": "{d}"},
        "grid": {f"a{i}": v for i, v in enumerate(lists)},
        "seeds": seeds,
    }
    values["base"]["arch"] = "".join(f"{{a{i}}}" for i in range(len(lists)))
    values["grid"]["d"] = ["digits"]
    values["zip"] = {"cut": list(range(rows)), "epochs": list(range(rows))} if rows else {}
    values["include"] = [{"data": "x", "arch": "y", "lr": [0.1] * included}] if included else []
    file = _file.read(values)
    made = list(file.rows())
    assert len(made) == sum(file.counts) == seeds * (max(1, rows) * math.prod(map(len, lists)) + included)
    main = [row.settings for row in made if not row.included]
    assert len({json.dumps(row, sort_keys=True) for row in main}) == len(main)  # each combination once
    assert all(row["cut"] == row["epochs"] for row in main if rows)  # rows stay together


# The name of a cell

plain = st.fixed_dictionaries(
    {"data": st.sampled_from(["digits", "cifar10"]), "seed": st.integers(0, 9)},
    optional={
        "lr": st.sampled_from([0.1, 1, 1.0]),
        "epochs": st.integers(1, 4),
        "defense": st.lists(st.sampled_from(["cem:16", "gaussian:0.1", "gaussian:1", "dropout:0.2"]), max_size=3),
    },
)


def cell(values: dict[str, Any], **more: Any) -> Cell:
    return Cell(config.parse(values).resolve(), {}, **more)


@settings(max_examples=60, deadline=None)
@given(plain, st.randoms(use_true_random=False))
def test_the_name_depends_on_what_is_trained_and_on_nothing_else(values, random):
    keys = list(values)
    random.shuffle(keys)
    name = cell(values).id
    assert len(name) == 12
    assert int(name, 16) >= 0
    assert name == cell({key: values[key] for key in keys}).id
    assert name == cell({**values, "root": "/elsewhere", "devices": 2}, axes={"a": 1}, attacked=7).id
    assert name == cell(config.parse(values).resolve().model_dump(mode="json")).id  # defaults written out
    assert name != cell({**values, "seed": values["seed"] + 1}).id
    assert name != cell({**values, "defense": [*values.get("defense", []), "gaussian:0.7"]}).id


def test_equal_numbers_have_one_name():
    names = {cell({**BASE, "lr": lr, "defense": [f"cem:{w}"]}).id for lr, w in ((1, 16), (1.0, 16.0))}
    assert len(names) == 1


def test_the_name_does_not_change_between_versions():
    """Where this fails, finished cells of every user are trained again: that must be meant."""
    assert cell({**BASE, "defense": ["gaussian:0.025", "cem:16"], "seed": 3}).id == "b5c614e72b53"


def test_root_is_replaced_and_not_part_of_the_name(load):
    one, other = load({"root": "here"}), load({"root": "here"}, {"root": "/there"})
    assert one.cells[0].settings.root == Path("here").absolute()
    assert other.cells[0].settings.root == Path("/there")
    assert one.cells[0].id == other.cells[0].id


# Attacks


def test_attacks_are_resolved_and_labeled_as_a_suite_labels_them(load):
    texts = ["published/decoder", "decoder:network=conv_normN1C16", {"linear": {"looks": 3}}]
    options = {"attacker_size": 100, "attacked": 20}
    found = load(attacks=texts, **options).cells[0]
    assert list(found.attacks) == ["decoder", "decoder-conv_normN1C16", "linear"]
    assert found.attacks["decoder"] == suites.PRESETS["published/decoder"].resolve("attacks")
    assert found.attacks["linear"].parameters == {"looks": 3}
    assert (found.attacker_size, found.attacked) == (100, 20)
    named = load(suite="quick-v1").cells[0].attacks
    assert named == {k: v.resolve("attacks") for k, v in suites.labels(suites.SUITES["quick-v1"]).items()}
    assert list(load().cells[0].attacks) == ["decoder"]


# Noise alone


def test_the_baseline_is_the_sweep_of_noise_for_every_other_setting(load):
    sections = {"grid": {"cut": [2, 3], "lambda": [0, 16]}, "seeds": 2}
    sections["include"] = [{"defense": [], "lr": 0.3}]  # undefended: nothing to compare
    plain = load({"defense": ["gaussian:0.1", "{more}", "cem:{lambda}"]}, zip={"more": [None, "nopeek:1"]}, **sections)
    more = load(
        {"defense": ["gaussian:0.1", "{more}", "cem:{lambda}"]},
        {"baseline": (0.1, 0.5)},
        zip={"more": [None, "nopeek:1"]},
        **sections,
    )
    added = more.cells[len(plain.cells) :]
    assert more.cells[: len(plain.cells)] == plain.cells
    assert [(c.settings.cut, c.settings.seed) for c in added] == [(2, 0), (3, 0), (2, 1), (3, 1)]  # 0.1 is there
    assert all([s.name for s in c.settings.defense] == ["gaussian", "cem"] for c in added)
    assert {(c.settings.defense[0].parameters["sigma"], c.settings.defense[1].parameters["weight"]) for c in added} == {
        (0.5, 0.0)
    }
    assert added[0].axes == {"cut": 2, "seed": 0, "baseline": "noise", "sigma": 0.5}


def test_noise_alone_is_there_whatever_its_cem_measures(load):
    one = {"defense": ["gaussian:0.1", "cem:weight=0,clusters=3"]}
    assert len(load(one, {"baseline": [0.1]}).cells) == 1
    assert len(load({"defense": ["gaussian:0.1"]}, {"baseline": [0.1]}).cells) == 1
    assert len(load({"defense": ["gaussian:0.1", "cem:1"]}, {"baseline": [0.1]}).cells) == 2


@pytest.mark.parametrize("sigmas", [(), (0.1, 0), (-1,), (math.nan,), (math.inf,)])
def test_bad_baselines(load, sigmas):
    with pytest.raises(UserError, match=r"baseline is \[.*\]; expected standard deviations of noise above 0"):
        load({"defense": ["gaussian:0.1"]}, {"baseline": sigmas})


# Files


@cache
def preset(name: str) -> grid.Grid:
    return load_grid(name)


def test_what_legacy_writes_is_a_grid(tmp_path):
    script = tmp_path / "run_exp.sh"
    script.write_text(
        "for l in 0 16; do for s in 1 2; do python main_MIA.py --arch vgg11_bn_sgm --cutlayer 4 --lambd $l "
        "--random_seed $s --regularization Gaussian_kl --regularization_strength 0.025 --num_epochs 240; done; done"
    )
    (tmp_path / "product.yaml").write_text(legacy([str(script)]))
    loaded = load_grid(tmp_path / "product.yaml")
    assert [(len(c.settings.defense), c.settings.seed) for c in loaded.cells] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    script.write_text(
        "python main_MIA.py --arch vgg11_bn_sgm --cutlayer 4 --bottleneck_option noRELU_C8S1 --num_epochs 240\n"
        "python main_MIA.py --arch vgg11_bn_sgm --cutlayer 4 --num_epochs 120 --random_seed 3\n"
        "python main_MIA.py --arch vgg11_bn_sgm --cutlayer 4 --num_epochs 120 --random_seed 4\n"
    )
    (tmp_path / "rows.yaml").write_text(legacy([str(script), "--reading", "code"]))
    loaded = load_grid(tmp_path / "rows.yaml")
    assert "zip" in yaml.safe_load((tmp_path / "rows.yaml").read_text())
    assert [(c.settings.bottleneck, c.settings.epochs) for c in loaded.cells] == [(8, 240), (None, 120), (None, 120)]


def test_a_file_of_settings_is_a_grid_of_one_cell(tmp_path):
    known = config.parse({**BASE, "defense": ["gaussian:0.1", "cem:4"]}).resolve()
    (tmp_path / "config.yaml").write_text(config.dump(known))
    loaded = load_grid(tmp_path / "config.yaml")
    assert [c.settings for c in loaded.cells] == [known]
    assert (loaded.name, loaded.cells[0].axes) == ("config", {})


@pytest.mark.parametrize("name", grid.presets())
def test_presets_say_what_they_are(name):
    loaded = preset(name)
    assert loaded.name == name
    assert loaded.description
    assert all(c.attacks for c in loaded.cells)


OPTIONS = {
    "Bottleneck": [],
    "DistCorr": ["--AT_regularization", "nopeek"],
    "PATROL": ["--AT_regularization", "gan_adv_step1_pruning180"],
    "ResSFL": ["--AT_regularization", "gan_adv_step1"],
    "Dropout": ["--AT_regularization", "dropout0.2"],
}


@pytest.mark.parametrize("name", ["paper/cifar10", "paper/cifar100"])
def test_rows_of_the_tables_are_what_the_published_options_mean(name):
    for found in preset(name).cells:
        label, sigma = str(found.axes["label"]), found.axes.get("sigma")
        label = {"Noise_Nopeek": "DistCorr", "Noise_ARL": "ResSFL"}.get(label, label)
        if label == "No defense":
            assert (found.settings.bottleneck, found.settings.defense) == (None, ())
            continue
        common = ["--dataset", name.removeprefix("paper/"), "--bottleneck_option", "noRELU_C8S1"]
        common += ["--regularization", "Gaussian_kl", "--regularization_strength", str(sigma), "--random_seed", "125"]
        told = config.parse(read_options([*common, *OPTIONS[label]]).settings).resolve()
        ours = found.settings
        same = {"data", "arch", "cut", "bottleneck", "epochs", "batch_size", "lr", "milestones", "seed", "crop_padding"}
        assert ours.model_dump(include=same) == told.model_dump(include=same)
        assert {s.model_dump_json() for s in ours.defense if s.name != "cem"} == {
            s.model_dump_json() for s in told.defense
        }


@pytest.mark.parametrize(("name", "rows"), [("cifar10", 8), ("cifar100", 7), ("tinyimagenet", 8), ("facescrub", 8)])
def test_tables_have_every_row_without_and_with_cem_under_both_protocols(name, rows):
    cells = preset(f"paper/{name}").cells
    found = {(c.axes["label"], c.axes.get("lambda"), c.settings.protocol) for c in cells}
    assert len({label for label, _, _ in found}) == rows
    assert len(found) == len(cells) == 2 * (7 * 2 + rows - 7)
    assert {c.settings.epochs for c in cells} == {120 if name == "tinyimagenet" else 240}
    assert all(list(c.attacks) == ["decoder", "gan"] for c in cells)
    epochs = {c.attacks["gan"].parameters["epochs"] for c in cells}
    assert epochs == {80 if name == "tinyimagenet" else 150}


# What is refused


def message(load, *args: Any, **sections: Any) -> str:
    with pytest.raises(UserError) as error:
        load(*args, **sections)
    assert "\n" not in str(error.value)
    return str(error.value)


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
        ({"grid": {"seed": 3}}, "grid: seed is 3; expected a list of values, such as [3]"),
        ({"grid": [1]}, "grid is [1]; expected settings by name, such as grid: {epochs: [60, 240]}"),
        ({"zip": {"seed": [1, 2], "cut": [3]}}, "zip: its lists are not equally long (seed 2, cut 1)"),
        ({"zip": {"cut": [3]}, "grid": {"cut": [2]}}, "cut has values in grid and in zip; give them once"),
        ({"grid": {"seed": [3]}, "seeds": 2}, "seed is in grid, and seeds is given; give one of the two"),
        ({"seeds": 0}, "seeds is 0; expected how many (3 for 0, 1, 2) or a list of them"),
        ({"seeds": []}, "seeds is []; expected how many"),
        ({"seeds": [1, "a"]}, "seeds is [1, 'a']; expected how many"),
        ({"seeds": True}, "seeds is True; expected how many"),
        ({"seeds": 10**9}, "the grid has 1,000,000,000 seeds; expected at most 100,000 cells"),
        ({"include": {"seed": 3}}, "include is {'seed': 3}; expected a list of settings"),
        ({"include": [{"seed": []}]}, "include 1: seed is an empty list"),
        ({"attacks": []}, "attacks is []; expected a list, such as [published/decoder, linear]"),
        ({"attacks": ["decodr"]}, "unknown attack 'decodr'; did you mean 'decoder'?"),
        ({"attacks": ["decoder:epochs=0"]}, "decoder: epochs is 0"),
        ({"attacks": ["decoder:"]}, "attacks: settings is 'decoder:'; 'decoder:' is no plug-in"),
        ({"attacks": ["decoder", "decoder:epochs=3"]}, "two attacks are called decoder"),
        ({"attacks": ["linear"], "suite": "quick-v1"}, "the file names attacks and a suite; give one of the two"),
        ({"suite": "quik-v1"}, "unknown suite 'quik-v1'; did you mean 'quick-v1'?"),
        ({"attacked": 1}, "attacked is 1; expected a number of images, at least 2"),
        ({"attacker_size": "all"}, "attacker_size is 'all'; expected a number of images, at least 2"),
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
        ({"defense": ["{a}"]}, {"grid": {"a": ["{b}"], "b": ["{a}"]}}, "defense: the axis a names itself"),
        ({"lr": [0.1, -1]}, {}, "cell lr=-1: lr is -1; expected greater than 0"),
        ({"lr": "{x}"}, {"grid": {"x": [0.1, "a"]}, "seeds": 2}, "cell x=a, seed=0: lr is 'a'; expected"),
        ({"defense": ["gaussian:{x}"]}, {"grid": {"x": [0.1, -1]}}, "cell x=-1: gaussian: sigma is -1"),
        ({"defense": ["{x}"]}, {"grid": {"x": ["dropout:0.1", "drop:1"]}}, "cell x=drop:1: unknown defense 'drop'"),
        ({"defense": ["{x}"]}, {"grid": {"x": ["cem:a=1"]}}, "defense 'cem' has no parameter 'a'"),
        (
            {"defense": ["patrol:{x}"]},
            {"grid": {"x": [1, 3]}},
            "cell x=3: patrol acts after 3 epochs, but the training has 3",
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
        ({"bottleneck": 99}, {}, "bottleneck channels 99 does not fit the feature"),
        ({"protocol": "train_tim"}, {}, "unknown protocol 'train_tim'; did you mean 'train_time'?"),
        ({"train_size": 2000}, {}, "train_size is 2000; digits has 1437 train images"),
        ({"data": None}, {}, "data is missing; give --data"),
        ({"epochs": 0, "lr": 0, "defense": [3]}, {}, "defense.0 is 3; expected"),
    ],
)
def test_bad_cells(load, base, sections, expected):
    assert message(load, base, **sections).startswith(expected)


def test_every_error_of_a_cell_at_once(load):
    text = message(load, {"epochs": 0, "lr": 0, "defense": [3]})
    assert all(part in text for part in ("epochs is 0", "lr is 0", "defense.0 is 3"))


def test_ten_million_cells_are_refused_with_their_count(tmp_path, monkeypatch):
    monkeypatch.setattr(_file.GridFile, "rows", lambda self: pytest.fail("the grid was written out"))
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
        "the grid has 10,000,000 cells (100 × 100 × 10 × 100); expected at most 100,000: "
        "shorten a list or divide the file"
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


def test_loading_changes_no_random_state():
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_grid("smoke")
    assert torch.equal(before, torch.get_rng_state())


def test_the_example_of_the_documentation(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "bench.md").read_text(encoding="utf-8")
    (tmp_path / "grid.yaml").write_text(text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    loaded = load_grid(tmp_path / "grid.yaml")
    assert loaded.name == "my-grid"
    assert len(loaded.cells) == 3 * (2 * 2 * 3 - 2 + 2)  # seeds x (epochs x lambda x rows, less excluded, and included)
