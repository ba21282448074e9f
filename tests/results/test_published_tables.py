"""The published tables: whole, beside the right cells, and what ours does otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from report_helpers import add, cell
from splitveil import config
from splitveil.evaluation.suites import PRESETS
from splitveil.results import published_tables
from splitveil.results.record_types import RECORDS, Record


def typed(record: dict[str, Any]) -> Record:
    return RECORDS.validate_json(json.dumps(record))


GAN = "gan:epochs=150,batch_size=256"


@pytest.mark.parametrize(
    ("defense", "more", "method"),
    [
        (["gaussian:0.025", "adversarial:0.3", "patrol:2"], {}, "PATROL"),
        (["gaussian:0.15", "adversarial:0.3", "cem:16"], {}, "Noise_ARL"),
        (["gaussian:0.15", "nopeek:0.5"], {}, "Noise_Nopeek"),
        (["gaussian:0.025", "bottleneck:8"], {"bottleneck": None}, "Bottleneck"),
        ([], {"bottleneck": None}, "No defense"),
        ([], {"bottleneck": None, "data": "cifar100"}, None),  # not published
        (["gaussian:0.15"], {}, None),
        (["gaussian:0.01", "adversarial:0.3"], {}, None),
        (["gaussian:0.025", "cem:4"], {}, None),
        (["gaussian:0.025", "topk:0.2"], {}, None),
        (["gaussian:0.025"], {"bottleneck": 4}, None),
        (["gaussian:0.025"], {"arch": "resnet20_sgm"}, None),
        (["gaussian:0.025"], {"data": "digits"}, None),
        (["gaussian:0.025"], {"cut": 2}, None),
    ],
)
def test_which_cells_are_published_rows(defense, more, method):
    assert published_tables.method(cell(*defense, **more).settings.model_dump(mode="json")) == method


def test_the_published_tables_are_whole():
    attacks, protocols = published_tables.ATTACKS, published_tables.PROTOCOLS
    for table in published_tables.TABLES.values():
        defended = [row for row in table.rows.values() if row.method != published_tables.NO_DEFENSE]
        assert [row.method for row in defended] == list(published_tables.TABLES["cifar100"].rows)
        for row in defended:
            assert row.mse.keys() == {(attack, protocol) for attack in attacks for protocol in protocols}
            assert all(0 < pair.without < pair.cem < 0.05 for pair in row.mse.values())  # CEM raised every one
            assert abs(row.accuracy.without - row.accuracy.cem) < 0.01
    arl = published_tables.TABLES["facescrub"].rows["Noise_ARL"].mse["gan", "inference_time"]
    assert (arl.without, arl.cem) == pytest.approx((0.0158, 0.0231))


def test_settings_that_differ_from_the_published_ones_are_named(tmp_path):
    stack = ["gaussian:0.025", "nopeek:0.5", "cem:weight=16,schedule=ramp"]
    record = typed(add(tmp_path, cell(*stack, lr=0.1, batch_size=64, epochs=3, test_size=100), 0.5, 0.01))
    found = "; ".join(published_tables.deviations([record]))
    for text in (
        "3 epochs of training (published 240)",
        "64 as batch_size (published 128)",
        "0.1 as lr (published 0.05)",
        "100 test images (published 10,000)",
        "0.5 as weight of nopeek (published 0.3)",
        "CEM’s weight over the epochs is ramp, not as published",
        "CEM’s loss is the bound, not the published one",
    ):
        assert text in found
    for name in ("momentum", "dropout", "optimizer", "rotate", "label_smoothing"):
        assert name not in found
    fast = typed(add(tmp_path / "fast", cell("gaussian:0.025", recipe="fast"), 0.5, 0.01))
    found = "; ".join(published_tables.deviations([fast]))
    for text in (
        "muon as optimizer (published sgd)",
        "0.1 as label_smoothing",
        "one-cycle as schedule",
        "last as choose",
    ):
        assert text in found


@pytest.mark.parametrize(
    ("defense", "more"),
    [
        (["gaussian:0.025"], {"bottleneck_stride": 2, "bottleneck_kernel": 5, "bottleneck_relu": True}),
        (["gaussian:0.025", "bottleneck:channels=8,stride=2,kernel=5,relu=true"], {"bottleneck": None}),
    ],
)
def test_another_bottleneck_is_named(tmp_path, defense, more):
    other = add(tmp_path, cell(*defense, **more), 0.5, 0.01)
    assert published_tables.method(other["config"]) == "Bottleneck"
    same = typed(add(tmp_path, cell("gaussian:0.025"), 0.5, 0.01))
    found = [line for line in published_tables.deviations([same, typed(other)]) if "bottleneck" in line]
    assert found == [
        "2 as bottleneck_stride (published 1)",
        "5 as bottleneck_kernel (published 3)",
        "True as bottleneck_relu (published False)",
    ]
    assert "bottleneck" not in "; ".join(published_tables.deviations([same]))


def test_a_wire_without_a_bottleneck_has_no_other_one(tmp_path):
    record = typed(add(tmp_path, cell(bottleneck=None), 0.5, 0.01))
    assert "bottleneck" not in "; ".join(published_tables.deviations([record]))


def test_the_published_weight_of_distance_correlation_depends_on_the_images(tmp_path):
    for data, named in (("cifar10", "0.03 as weight of nopeek (published 0.3)"), ("cifar100", "")):
        record = typed(add(tmp_path / data, cell("gaussian:0.025", "nopeek:0.03", data=data), 0.5, 0.01))
        lines = [line for line in published_tables.deviations([record]) if "nopeek" in line]
        assert lines == [named] * bool(named)


@pytest.mark.parametrize(("spec", "said"), [(GAN, True), ("published/gan", False)])
def test_whose_critic_the_gan_attack_has_is_said(tmp_path, spec, said):
    found = PRESETS.get(spec) or config.Spec.model_validate(spec)
    record = add(tmp_path, cell("gaussian:0.025"), 0.5, 0.01)
    record["attacks"]["gan"] = {**record["attacks"]["decoder"], "attack": found.resolve("attacks").model_dump()}
    lines = published_tables.deviations([typed(record)])
    about = [line for line in lines if "gan" in line]
    assert about == (
        [
            "256 images in a batch of the gan attack (published 128)",
            "the gan attack’s critic and rates are ours, not the published ones",
        ]
        if said
        else []
    )
