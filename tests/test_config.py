"""Settings: what is written comes back, and every mistake is one line that says what to do."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil import config
from splitveil.config import Spec, TrainConfig
from splitveil.errors import UserError


def message(**values) -> str:
    with pytest.raises(UserError) as error:
        config.parse({"data": "digits", **values})
    assert "\n" not in str(error.value)
    return str(error.value)


# Specs


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("gaussian", {}),
        ("gaussian:0.025", {"": 0.025}),
        ("cem:16", {"": 16}),
        ("cem:weight=16,loss=released", {"weight": 16, "loss": "released"}),
        ("cem:16,loss=released", {"": 16, "loss": "released"}),
        ("cem: weight = 1e-3", {"weight": "1e-3"}),
    ],
)
def test_spec_of_text(text, parameters):
    spec = Spec.model_validate(text)
    assert spec.name == text.partition(":")[0]
    assert spec.parameters == parameters


@pytest.mark.parametrize(
    "value", [{"cem": {"weight": 16}}, {"name": "cem", "parameters": {"weight": 16}}, "cem:weight=16"]
)
def test_three_ways_to_write_a_spec(value):
    assert Spec.model_validate(value) == Spec(name="cem", parameters={"weight": 16})


@pytest.mark.parametrize(
    ("value", "sigma"), [(0, 0.0), (0.0, 0.0), (0.5, 0.5), ("0.5", 0.5), (None, 0.025), ({}, 0.025)]
)
def test_a_value_in_a_file_is_the_first_parameter(value, sigma):
    """A zero of a sweep was taken for the default."""
    assert Spec.model_validate({"gaussian": value}).resolve("defenses").parameters == {"sigma": sigma}


@pytest.mark.parametrize("value", [False, True, "", [], "many"])
def test_other_values_in_its_place_are_refused(value):
    assert "gaussian" in (said := message_of_resolving({"gaussian": value})) or "parameters" in said


def message_of_resolving(spec) -> str:
    with pytest.raises(UserError) as error:
        config.parse({"data": "digits", "defense": [spec]}).resolve()
    return str(error.value)


def test_resolving_names_types_and_fills_in_everything():
    resolved = Spec.model_validate("cem:1e-3,clusters=3").resolve("defenses")
    assert resolved.parameters["weight"] == 1e-3
    assert isinstance(resolved.parameters["weight"], float)
    assert resolved.parameters["clusters"] == 3
    assert resolved.parameters["loss"] == "bound"
    assert resolved.resolve("defenses") == resolved
    assert resolved.make("defenses").clusters == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cem:weight=strong", "cem: weight is 'strong'; expected a number from 0 to 1000000, such as 16.0"),
        ("cem:loss=bounds", "cem: loss is 'bounds'; expected bound or released"),
        ("cem:wieght=3", "defense 'cem' has no parameter 'wieght'; did you mean 'weight'? it has: weight"),
        ("cme:3", "unknown defense 'cme'; did you mean 'cem'?"),
        ("gaussian:-1", "gaussian: sigma is -1"),
    ],
)
def test_bad_plugin_parameters(text, expected):
    with pytest.raises(UserError) as error:
        Spec.model_validate(text).make("defenses")
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cem:",
        ":3",
        "cem:16,",
        "cem:16,4",
        "cem:weight=1,weight=2",
        "cem:weight=",
        "cem:[",
        "cem:a: b",
        "cem:=3",
    ],
)
def test_malformed_specs_say_how_to_write_one(text):
    assert "write name, name:value or name:key=value,key=value" in message(defense=[text])


def test_the_first_parameter_by_place_and_by_name_is_refused():
    with pytest.raises(UserError, match="'cem' got weight twice"):
        Spec.model_validate("cem:16,weight=4").resolve("defenses")


names = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
values = st.one_of(
    st.integers(-99, 99), st.booleans(), st.floats(-1e6, 1e6), names.filter(lambda s: s not in YAML_WORDS)
)
YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


@given(names, st.dictionaries(names, values, max_size=4))
@settings(deadline=None)
def test_specs_survive_yaml(name, parameters):
    spec = Spec(name=name, parameters=parameters)
    written = config.dump(TrainConfig.model_validate({"data": "digits", "defense": (spec,)}))
    assert config.parse(yaml.safe_load(written)).defense == (spec,)


# The whole configuration


@given(
    st.builds(
        dict,
        data=st.sampled_from(["digits", "cifar10", "folder:a b/ü"]),
        epochs=st.integers(1, 999),
        lr=st.floats(1e-9, 10),
        weight_decay=st.floats(0, 1),
        seed=st.integers(0, 2**40),
        flip=st.sampled_from([None, True, False]),
        train_size=st.one_of(st.none(), st.integers(2, 10**6)),
        milestones=st.lists(st.floats(0.01, 0.99), max_size=4).map(lambda m: tuple(sorted(m))),
        defense=st.lists(st.sampled_from(["gaussian:0.1", "cem:4", "cem:loss=released"]), max_size=2),
    )
)
@settings(deadline=None, max_examples=50)
def test_a_config_survives_yaml(values):
    resolved = config.parse(values).resolve()
    again = config.parse(yaml.safe_load(config.dump(resolved, splitveil="0.1.0")))
    assert again == resolved
    assert again.resolve() == resolved
    assert again.model_dump(mode="json") == resolved.model_dump(mode="json")


def test_load_reads_what_dump_wrote(tmp_path):
    original = config.parse({"data": "digits", "root": "~/images", "defense": ["gaussian:0.1"]}).resolve()
    (tmp_path / "c.yaml").write_text(config.dump(original, note="hello"), encoding="utf-8")
    assert (tmp_path / "c.yaml").read_text().startswith("# note: hello\n")
    assert config.parse(config.load(tmp_path / "c.yaml")) == original
    assert original.root is not None
    assert original.root.is_absolute()


@pytest.mark.parametrize(
    ("data", "padding", "flip"),
    [("cifar10", 4, True), ("cifar100", 4, True), ("digits", 2, False), ("folder:x", 0, True)],
)
def test_defaults_that_depend_on_the_images(data, padding, flip):
    resolved = config.parse({"data": data}).resolve()
    assert (resolved.crop_padding, resolved.flip) == (padding, flip)
    kept = config.parse({"data": data, "crop_padding": 1, "flip": not flip}).resolve()
    assert (kept.crop_padding, kept.flip) == (1, not flip)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"epoch": 3}, "epoch: no such setting; did you mean 'epochs'?"),
        ({"epochs": 0}, "epochs is 0; expected a whole number from 1 to 1000000"),
        ({"lr": -1}, "lr is -1; expected a number above 0, at most 1000"),
        ({"lr": float("nan")}, "lr is nan; expected"),
        ({"lr": float("inf")}, "lr is inf; expected"),
        ({"momentum": 1}, "momentum is 1; expected a number from 0, below 1"),
        ({"batch_size": 1}, "batch_size is 1; expected a whole number from 2 to 1000000000"),
        ({"batch_size": "many"}, "batch_size is 'many'; expected a whole number from 2"),
        ({"precision": "16"}, "precision is '16'; expected auto, 32-true or bf16-mixed"),
        ({"milestones": [60, 120]}, "milestones.0 is 60; expected less than 1"),
        ({"defense": [3]}, "defense.0 is 3; expected"),
        ({"defense": "cem:16"}, "defense is 'cem:16'; expected"),
        *(({name: True}, f"{name} is True; expected a ") for name in ("epochs", "lr", "rotate", "cut", "bottleneck")),
        ({"seed": False}, "seed is False; expected a whole number"),
        ({"data": True}, "data is True; expected a text"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0"),
        ({"seed": 2**63}, f"seed is {2**63}; expected a whole number from 0 to {2**63 - 1}"),
        ({1: 2}, "1"),
    ],
)
def test_bad_settings(values, expected):
    with pytest.raises(UserError) as error:
        config.parse({"data": "digits", **values})
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


def test_missing_data_and_all_errors_at_once():
    with pytest.raises(UserError) as error:
        config.parse({"epochs": 0, "lr": 0})
    text = str(error.value)
    assert "data is missing; give data: in the file or --data" in text
    assert "epochs is 0" in text
    assert "lr is 0" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- a\n- b\n", "holds no settings"),
        (b"", "holds no settings"),
        (b"a: 1\nb: 2\n c: 3\n", r"is not YAML: line 3: "),
        (b"[" * 3000, r"is not YAML: its values are nested too deeply"),
    ],
)
def test_bad_files(tmp_path, content, expected):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as error:
        config.load(path)
    assert "\n" not in str(error.value)
    assert "epochs: 240" in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("lr: 1\nseed: 3\nlr: 2\n", r"c\.yaml, line 3: lr is given twice, and only one would count; give it once$"),
        ("grid: {a: [1],\n a: [2]}", r"c\.yaml, line 2: a is given twice"),
        ("a:\n  b: &b {defense: *b}\n", r"c\.yaml, line 2: &b contains itself; write its values out$"),
        ("a: &d [1, [*d]]\n", r"c\.yaml, line 1: &d contains itself"),
    ],
)
def test_files_that_cannot_have_been_meant_so(tmp_path, content, expected):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError, match=expected):
        config.load(tmp_path / "c.yaml")


def test_values_may_be_shared_and_merged(tmp_path):
    (tmp_path / "c.yaml").write_text("a: &a {x: 1, y: &y [1]}\nb: {<<: *a, x: 2}\nc: [*y, *y]\n")
    assert config.load(tmp_path / "c.yaml") == {"a": {"x": 1, "y": [1]}, "b": {"x": 2, "y": [1]}, "c": [[1], [1]]}


def test_numbers_with_an_exponent_are_numbers(tmp_path):
    (tmp_path / "c.yaml").write_text("a: [1e-1, 1E3, -2.e+4, .5e1]\nb: ['1e-1', e1, 1e, 1e-1x]")
    assert config.load(tmp_path / "c.yaml") == {"a": [0.1, 1000, -20000, 5], "b": ["1e-1", "e1", "1e", "1e-1x"]}


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.yaml: No such file or directory"):
        config.load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        config.load(tmp_path)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
@pytest.mark.parametrize(("recipe", "own"), [("published", {"nesterov": True}), ("fast", {})])
def test_settings_that_contradict_each_other_are_one_line(recipe, own, optimizer):
    said = message(recipe=recipe, optimizer=optimizer, momentum=0, **own)
    assert said.startswith("momentum is 0, but nesterov is true")
    assert ("as recipe fast has it unless it is given" in said) == (recipe == "fast")
    assert said.endswith("expected a momentum above 0, or nesterov false")
    assert config.parse({"data": "digits", "recipe": recipe, "momentum": 0, "nesterov": False}).momentum == 0


def test_settings_cannot_change_once_made():
    with pytest.raises(Exception, match="frozen"):
        config.parse({"data": "digits"}).epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits", "tinyimagenet"])
@pytest.mark.parametrize("more", [":/images", ":root=/images", ":download=true", ":train_size=200"])
def test_an_image_set_is_augmented_alike_however_it_is_written(name, more):
    assert config.augmentation(name + more) == config.augmentation(name)


def test_a_file_of_another_tool_is_refused_in_few_words():
    """The names that there are stand once, however many are unknown, and the first errors stand for all."""
    wrong = {f"zzq{number}": 1 for number in range(12)}
    with pytest.raises(UserError) as error:
        config.parse({"data": "digits", "arch": "vgg11_bn", "cut": 4, **wrong})
    said = str(error.value)
    assert said.startswith("zzq0, zzq1, zzq2, zzq3, zzq4, and 7 more: no such setting; there are alternate_flip, arch,")
    assert said.count("weight_decay") == 1
    bad = dict.fromkeys(("epochs", "lr", "batch_size", "momentum", "seed", "bottleneck", "flip"), "x")
    with pytest.raises(UserError, match=r"epochs is 'x'; .*; and 2 more$"):
        config.parse({"data": "digits", "arch": "vgg11_bn", "cut": 4, **bad})
