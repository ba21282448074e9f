"""Plug-ins are found by being there, and a wrong name is answered with the nearest."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitveil import registry
from splitveil.errors import UserError, did_you_mean, unknown
from splitveil.registry import Registry, plugin

BUILT = {
    "zoo": "vgg11_bn_sgm",
    "zoo.decoders": "res_normNnCc",
    "data": "digits",
    "defenses": "cem",
    "attacks": "decoder",
}


@pytest.fixture
def fresh():
    registry._discover.cache_clear()
    yield
    registry._discover.cache_clear()


@pytest.mark.parametrize(("kind", "name"), BUILT.items())
def test_the_built_in_ones_are_found(kind, name):
    found = Registry(kind)
    assert name in found.names()
    assert found.names() == sorted(found.names())
    assert name in found.get(name).__plugin_names__
    described = dict(found.describe())
    assert list(described) == found.names()
    assert described[name]
    assert "\n" not in described[name]


def test_a_wrong_name_is_one_line_with_the_nearest():
    with pytest.raises(UserError) as error:
        Registry("defenses").get("gausian")
    message = str(error.value)
    assert message.startswith("unknown defense 'gausian'; did you mean 'gaussian'? expected one of: ")
    assert "cem" in message
    assert "\n" not in message


def test_a_name_like_none_is_answered_with_all():
    with pytest.raises(UserError, match=r"^unknown attack 'qqqq'; expected one of: .*decoder"):
        Registry("attacks").get("qqqq")


def package(monkeypatch, tmp_path, **modules: str) -> None:
    import splitveil.attacks

    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(splitveil.attacks, "__path__", [*splitveil.attacks.__path__, str(tmp_path)])


def test_a_new_file_is_a_new_plugin(fresh, monkeypatch, tmp_path):
    source = (
        "from splitveil.registry import plugin\n"
        "from splitveil.attacks.linear import LinearAttack\n"  # imported, hence not this file's
        "@plugin('fresh_one', 'fresh_two')\nclass Fresh:\n    '''First line.\n\n    More.'''\n"
        "class Sub(Fresh):\n    '''No plug-in: it only inherits.'''\n"
    )
    package(monkeypatch, tmp_path, fresh_plugin=source, _hidden="raise RuntimeError('not to be imported')")
    found = Registry("attacks")
    assert found.get("fresh_one") is found.get("fresh_two")
    assert found.get("fresh_one").__name__ == "Fresh"
    assert dict(found.describe())["fresh_two"] == "First line."
    assert found.get("linear").__module__ == "splitveil.attacks.linear"


def test_two_plugins_of_one_name_are_refused(fresh, monkeypatch, tmp_path):
    source = "from splitveil.registry import plugin\n@plugin('linear')\nclass Other:\n    '''Twice.'''\n"
    package(monkeypatch, tmp_path, another_linear=source)
    with pytest.raises(ValueError, match=r"'linear'.*twice"):
        Registry("attacks")


def test_entry_points_are_found_and_do_not_replace_our_own(fresh, monkeypatch):
    theirs = EntryPoint("mine", "splitveil.errors:UserError", "splitveil.attacks")
    clash = EntryPoint("linear", "splitveil.errors:UserError", "splitveil.attacks")
    monkeypatch.setattr(registry, "entry_points", lambda group: [theirs, clash] if group.endswith("attacks") else [])
    found = Registry("attacks")
    assert found.get("mine") is UserError
    assert found.get("linear") is not UserError


def test_a_broken_package_of_others_is_named(fresh, monkeypatch):
    broken = EntryPoint("mine", "no_such_package:Thing", "splitveil.attacks")
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    with pytest.raises(UserError, match=r"attack 'mine' of no_such_package cannot be loaded.*No module") as error:
        Registry("attacks")
    assert "\n" not in str(error.value)


def test_marking_changes_nothing_else():
    def build():
        """Three."""
        return 3

    class Thing:
        pass

    marked: Any = plugin("a", "b")(build)
    assert (marked(), marked.__name__, marked.__doc__, marked.__module__) == (3, "build", "Three.", __name__)
    assert plugin("thing")(Thing) is Thing


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=12), max_size=5))
def test_the_hint_is_empty_or_one_of_the_names(name, options):
    hint = did_you_mean(name, options)
    assert hint == "" or any(hint == f"; did you mean '{option}'?" for option in options)


@given(st.sampled_from(["gaussian", "cem", "dropout", "adversarial"]), st.data())
def test_one_wrong_letter_is_understood(name, data):
    at = data.draw(st.integers(0, len(name) - 1))
    typed = name[:at] + "x" + name[at + 1 :]
    if len(name) > 3:
        assert did_you_mean(typed, ["gaussian", "cem", "dropout", "adversarial"]) == f"; did you mean '{name}'?"
    assert str(unknown("defense", typed, ["b", "a"])).endswith("expected one of: a, b")


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("defenses", "noise", ""),  # 0.55 like nopeek
        ("defenses", "pruning", ""),  # 0.5 like sparse_coding
        ("defenses", "none", ""),  # 0.6 like nopeek
        ("defenses", "sca", ""),  # 0.67 like pca
        ("defenses", "nopeak", "nopeek"),
        ("defenses", "topkprune", "topk"),
        ("defenses", "sparse", "sparse_coding"),
        ("zoo", "vgg11bn", "vgg11_bn"),
        ("attacks", "rlme", "rmle"),
    ],
)
def test_a_hint_does_not_lead_to_another_thing(kind: str, name: str, hint: str):
    with pytest.raises(UserError, match=f"'{name}'{f'; did you mean .{hint}.' if hint else '; expected one of'}"):
        Registry(kind).get(name)
