"""Grid files: what their lists become, what a cell is called, how it is attacked and compared."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench_grid_helpers import BASE, STACK, loader
from splitveil import config, recipe
from splitveil.bench import grid_file
from splitveil.bench.cells import Cell, Grid
from splitveil.bench.grid import load_grid
from splitveil.errors import UserError
from splitveil.evaluation import suites

pytestmark = pytest.mark.usefixtures("quick_weights")


@pytest.fixture
def load(tmp_path):
    return loader(tmp_path)


def stacks(loaded: Grid) -> list[list[dict[str, Any]]]:
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


def test_axes_of_one_value_are_compared_and_those_that_are_missing_match_nothing(load):
    axes = {"sigma": [0.1], "lambda": [0, 16]}
    loaded = load({"defense": STACK}, grid=axes, exclude=[{"sigma": 0.1, "lambda": 16}])
    assert [cell.axes for cell in loaded.cells] == [{"lambda": 0}]  # what does not vary is still not shown
    for item in ({"sigma": None, "lambda": 16}, {"row": None, "lambda": 16}):
        with pytest.raises(UserError, match=r"^exclude 1 .* matches no cell"):
            load({"defense": STACK}, grid=axes, exclude=[item], include=[{"defense": ["{row}"], "row": "cem:0"}])


def test_numbers_with_an_exponent_are_compared_as_numbers(tmp_path):
    text = "base: {data: digits, cut: 2, defense: ['gaussian:{s}']}\ngrid: {s: [1e-1, 0.2]}\nexclude: [{s: 0.1}]\n"
    (tmp_path / "grid.yaml").write_text(text)
    assert stacks(load_grid(tmp_path / "grid.yaml")) == [[{"gaussian": 0.2}]]


def test_null_in_exclude_is_the_default(load):
    axes = {"defense": [None, "gaussian:0.1"], "lr": [None, 0.05, 0.1]}
    loaded = load(grid=axes, exclude=[{"defense": None}, {"lr": None}])
    assert [(len(c.settings.defense), c.settings.lr) for c in loaded.cells] == [(1, 0.1)]


def test_one_defense_need_not_be_a_list(load):
    short = {"dropout": {"ratio": 0.3}}
    loaded = load({"defense": short}, include=[{"defense": "gaussian:{s}", "s": 0.2}, {"defense": "gaussian:0.1"}])
    assert stacks(loaded) == [[{"dropout": 0.3}], [{"gaussian": 0.2}], [{"gaussian": 0.1}]]
    loaded = load({"defense": "{row}"}, grid={"row": ["nopeek:1", ["nopeek:4"]]}, exclude=[{"defense": "nopeek:4"}])
    assert stacks(loaded) == [[{"nopeek": 1}]]


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
    file = grid_file.read(values)
    made = list(file.rows())
    assert len(made) == file.count() == seeds * (max(1, rows) * math.prod(map(len, lists)) + included)
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
    """Where this fails, finished cells of every user are trained again: that must be meant.

    It was meant when the clusters of `cem` began to follow the features: with follow=0 they are what they were.
    """
    assert cell({**BASE, "defense": ["gaussian:0.025", "cem:16,follow=0"], "seed": 3}).id == "b5c614e72b53"
    assert cell({**BASE, "defense": ["gaussian:0.025", "cem:16"], "seed": 3}).id != "b5c614e72b53"
    names = [cell({**BASE, "defense": [f"cem:16,loss=released{more}"]}).id for more in ("", ",follow=0", ",follow=9")]
    assert names == ["e1c1e71b8e41"] * 3  # which nothing follows


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


def test_loading_changes_no_random_state():
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_grid("smoke")
    assert torch.equal(before, torch.get_rng_state())


def test_what_a_recipe_changes_is_part_of_the_id_but_not_its_name():
    def cell(**more):
        return Cell(config.parse({"data": "cifar10", "defense": ["gaussian:0.1"], **more}).resolve(), {}).id

    fast = recipe.RECIPES["fast"]
    assert cell(recipe="published") == cell()
    assert cell(recipe="fast") == cell(**fast)
    published = config.parse({"data": "cifar10"}).model_dump()
    assert all((cell(**{key: value}) != cell()) == (value != published[key]) for key, value in fast.items())


@pytest.mark.parametrize(
    ("known", "stack", "changed"),
    [
        ("b10cc9a700d5", ["gaussian:0.025", "dropout:0.2", "cem:16,follow=0"], "dropout:ratio=0.2,rescale=false"),
        ("78afa88602d5", ["adversarial:weight=0.3,share=1"], "adversarial:weight=0.3,share=1,padding=zero"),
        ("35b138ae2205", ["nopeek:0.3"], "nopeek:weight=0.3,squared=true"),
        ("7e54d0c5fe58", ["adversarial_noise:0.1"], "adversarial_noise:size=0.1,padding=zero"),
        ("d4315ebdc292", ["gaussian:0.1"], "gaussian:0.2"),
        ("e34da989fd45", ["hsic:weight=0.05,form=plain"], "hsic:0.05"),
        (
            "716cbb3cbac3",
            ["gaussian:0.025", "hsic:weight=2,label_weight=20,form=plain", "cem:16,follow=0"],
            "hsic:weight=2,label_weight=20",
        ),
    ],
)
def test_cells_keep_their_id_when_a_defense_gains_a_parameter(known, stack, changed):
    """Ids as the version before rescale, padding, squared, normalized, form and follow gave them."""

    def cell(defense):
        return Cell(config.parse({"data": "cifar10", "defense": defense}).resolve(), {}).id

    assert cell(stack) == known
    name = changed.partition(":")[0]
    assert cell([changed if spec.partition(":")[0] == name else spec for spec in stack]) != known
