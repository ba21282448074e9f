"""Grid files that others write: presets, what `splitveil legacy` prints, a run's settings, the documentation."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import yaml

from bench_grid_helpers import BASE
from splitveil import config
from splitveil.bench import grid
from splitveil.bench.cells import Grid
from splitveil.bench.grid import load_grid
from splitveil.evaluation.suites import PRESETS
from splitveil.legacy import read_options
from splitveil.legacy.command import run as legacy
from splitveil.results import published_tables

pytestmark = pytest.mark.usefixtures("quick_weights")


@cache
def preset(name: str) -> Grid:
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


@pytest.mark.parametrize("name", ["paper/cifar10", "paper/cifar100", "paper/facescrub"])
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


@pytest.mark.parametrize("data", published_tables.TABLES)
def test_the_tables_have_the_strengths_of_the_published_rows(data):
    """0.1 times the strength of distance correlation on every set but CIFAR-10: nothing of it is reported to differ."""
    found = {
        name: {
            cell.settings.defense[i].parameters[key] for cell in preset(f"paper/{data}").cells for i in at(cell, name)
        }
        for name, (key, _) in published_tables.STRENGTHS.items()
    }
    assert found == {name: {published_tables.published_strength(name, data)} for name in published_tables.STRENGTHS}
    assert found["nopeek"] == {0.3 if data == "cifar10" else 0.03}


def at(cell, name):
    return [i for i, spec in enumerate(cell.settings.defense) if spec.name == name]


@pytest.mark.parametrize(("name", "rows"), [("cifar10", 8), ("cifar100", 7), ("tinyimagenet", 8), ("facescrub", 8)])
def test_tables_have_every_row_without_and_with_cem_under_both_protocols(name, rows):
    cells = preset(f"paper/{name}").cells
    found = {(c.axes["label"], c.axes.get("lambda"), c.settings.protocol) for c in cells}
    assert len({label for label, _, _ in found}) == rows
    assert len(found) == len(cells) == 2 * (7 * 2 + rows - 7)
    assert {c.settings.epochs for c in cells} == {120 if name == "tinyimagenet" else 240}
    assert all(list(c.attacks) == ["decoder", "gan"] for c in cells)
    wanted = dict(PRESETS["published/gan"].resolve("attacks").parameters)
    wanted["epochs"] = 80 if name == "tinyimagenet" else 150  # and nothing else differs
    assert all(c.attacks["gan"].parameters == wanted for c in cells)


def test_the_example_of_the_documentation(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
    (tmp_path / "grid.yaml").write_text(text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    loaded = load_grid(tmp_path / "grid.yaml")
    assert loaded.name == "my-grid"
    assert len(loaded.cells) == 3 * (2 * 2 * 3 - 2 + 2)  # seeds x (epochs x lambda x rows, less excluded, and included)
