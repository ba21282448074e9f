"""Every option of every command, given a path or a number that cannot be: one line, exit code 2, nothing written."""

from functools import cache
from pathlib import Path

import pytest

from commands import TINY, answer, state_of
from splitveil.bench.driver import cores
from splitveil.cli._shared import app
from splitveil.cli._usage import OTHER_NAMES
from splitveil.storage.files import expanded, write_text

COMMANDS = [name for name in app if not name.startswith("-")]
ALONE = {"grid": "smoke", "a": "x", "b": "y", "out": "out", "folder": "x"}
"""What a command needs beside the option that is tried."""


@cache
def arguments(command):
    return app[command].assemble_argument_collection()


def options(kind):
    """(command, argument) of every option and parameter of every command that is of this kind."""
    for command in COMMANDS:
        for argument in arguments(command):
            if argument.names != ("*",) and kind(argument):
                yield pytest.param(command, argument, id=f"{command} {argument.names[0]}")


def tokens(command, argument, value, finished):
    """The command with one option, and what else it needs."""
    name = argument.names[0]
    if not name.startswith("--"):
        return [command, value]
    needed = [other for other in arguments(command) if other.required]
    beside = [(other.names[0], ALONE.get(other.names[0][2:], str(finished))) for other in needed]
    more = {"train": TINY, "attack": ["--attack", "linear"]}.get(command, [])
    if name in more:
        more = [*more[: more.index(name)], *more[more.index(name) + 2 :]]
    if (command, name) in (("attack", "--suite"), ("attack", "--attack")):
        more = []
    return [command, *more, *(f"{key}={given}" for key, given in beside if key != name), f"{name}={value}"]


def refused(folder, *given):
    before, there = state_of(folder), set(Path().iterdir())
    code, error = answer(*given)
    assert code == 2, (given, error)
    assert error.count("\n") == 1, error
    assert len(error) < 1500, error
    assert state_of(folder) == before
    assert set(Path().iterdir()) == there
    return error


def is_path(argument):
    return "Path" in str(argument.hint) or argument.parameter.converter is not None or argument.names == ("TOKENS",)


def has_value(argument):
    return "bool" not in str(argument.hint)


@pytest.mark.parametrize(("command", "argument"), list(options(is_path)))
def test_paths_of_all_options_are_read_as_a_shell_does(command, argument, small, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value, said in (("~nosuchuser/x", "no such user"), ("a/" + "n" * 300, "too long a name")):
        assert said in refused(small_run, *tokens(command, argument, value, small_run))


@pytest.mark.parametrize(("command", "argument"), list(options(has_value)))
def test_numbers_of_thousands_of_digits_are_refused(command, argument, small_run, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if "--arch" not in argument.names:  # the tiny network stands for all names
        request.getfixturevalue("small")
    for value in ("9" * 5000, "-" + "9" * 5000):
        given = tokens(command, argument, value, small_run)
        if command == "legacy" and value.startswith("-"):
            given = [command, "--lambd", value]
        refused(small_run, *given)


N = "9" * 5000
HEX = "0x" + "f" * 5000
CELLS = "base: {data: digits, arch: resnet20_sgm, cut: 2}\n"


@pytest.mark.parametrize(
    "given",
    [
        ["legacy", "--bottleneck_option", f"noRELU_C{N}S1"],
        ["legacy", "--bottleneck_option", f"K{N}C8S1"],
        ["legacy", "--AT_regularization", f"gan_adv_step{N}"],
        ["legacy", "--AT_regularization", "pruning99999999"],
        ["legacy", "{run}", "--out", "x", "--train-size", N],
        ["legacy", "{run}", "--out", "x", "--test-size", "²"],
        ["bench", "smoke", "--on", "slurm", "--out", "x", "--slurm", f"time={N}"],
        ["attack", "{run}", "--attack", f"decoder:network=res_normN{N}C64"],
        ["attack", "{run}", "--attack", f"linear:looks={HEX}"],
        ["attack", "{run}", "--attack", "linear", "--budget", "²"],
        ["train", "--data", f"folder:root=x,size={N}", "--out", "x"],
        ["train", *TINY, "--out", "x", "--defense", f"gaussian:1e{N}"],
    ],
    ids=lambda given: " ".join(given)[:60],
)
def test_numbers_within_texts_may_have_any_length(given, small, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(small_run, *(str(small_run) if word == "{run}" else word for word in given))


@pytest.mark.parametrize("number", [N, HEX, "1:" + "59:" * 3000 + "1"])
@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("train", "data: digits\nepochs: {}\n"),
        ("train", "data: digits\ndefense: [{{gaussian: {{sigma: {}}}}}]\n"),
        ("train", "data: digits\nmilestones: [{}]\n"),
        ("bench", CELLS.replace("{", "{{").replace("}", "}}") + "attacks: [linear]\nseeds: {}\n"),
        ("bench", CELLS.replace("{", "{{").replace("}", "}}") + "attacks: [linear]\nname: {}\n"),
        ("bench", CELLS.replace("{", "{{").replace("}", "}}") + "attacks: [linear]\ngrid: {{lr: [{}]}}\n"),
        ("bench", CELLS.replace("{", "{{").replace("}", "}}") + "attacks: {{a: {}}}\n"),
    ],
)
def test_numbers_within_files_may_have_any_length(command, text, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.yaml").write_text(text.format(number))
    given = ["--config", "file.yaml", "--out", "x"] if command == "train" else ["file.yaml", "--plan"]
    assert "file.yaml, line " in refused(tmp_path, command, *given)


def test_the_number_of_a_stage_of_a_pipe_may_have_any_length(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.sh").write_text(f"python main_MIA.py | tee log\npython main_MIA.py --lambd ${{PIPESTATUS[{N}]}}\n")
    refused(tmp_path, "legacy", "s.sh")


@pytest.mark.parametrize("threads", [1024, 0, -1, cores() + 1])
def test_more_threads_than_the_machine_has_are_refused(threads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--plan"], ["--dry-run"]):
        error = refused(tmp_path, "bench", "smoke", "--out", "out", "--threads", threads, *more)
        assert f"--threads is {threads}; " in error
        if threads > 1:
            assert f"this machine has {cores()} cores; expected 1 to {cores()}" in error


def test_the_home_of_a_path_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/runs") == tmp_path / "runs"
    code, error = answer("compare", "~/a", tmp_path / "b")
    assert (code, f"{tmp_path}/a" in error) == (2, True)


def test_a_name_as_long_as_it_may_be_is_written(tmp_path):
    for name in ("n" * 255, "n" * 240 + ".json", "ü" * 127, "a." + "n" * 253):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    assert len(list(tmp_path.iterdir())) == 4


def test_a_path_that_is_too_long_as_a_whole_is_called_that(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = str(Path(*["n" * 200] * 30))
    assert "the path is too long" in refused(tmp_path, "train", *TINY, "--out", whole)


def test_a_grid_given_to_train_names_the_command_for_it(tmp_path):
    grid = tmp_path / "my grid.yaml"
    grid.write_text("base: {data: digits, arch: vgg11_bn_sgm, cut: 4}\ngrid: {epochs: [1, 2]}\n")
    code, error = answer("train", "--config", grid, "--out", tmp_path / "run")
    assert (code, (tmp_path / "run").exists()) == (2, False)
    assert f"is a grid of several trainings; run it with: splitveil bench '{grid}' --out DIR" in error


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("attack", "a", "b"), "unexpected: b; splitveil attack takes only RUN and options"),
        (
            ("attack", "a", "linear", "nearest"),
            "unexpected: linear nearest; splitveil attack takes only RUN and options",
        ),
        (("list", "attacks", "linear"), "unexpected: linear; splitveil list takes only WHAT and options"),
        (("demo", "a"), "unexpected: a; splitveil demo takes options only"),
        (("attack",), "splitveil attack needs RUN; see splitveil attack --help"),
        (("compare", "a"), "splitveil compare needs B; see splitveil compare --help"),
        (("query", "a"), "splitveil query needs IMAGES; see splitveil query --help"),
        (("train",), "splitveil train needs --out; see splitveil train --help"),
        (("train", "--out"), "--out needs a value; see splitveil train --help"),
        (("train", "--out", "a", "--network", "vgg"), "unknown option --network; the one for this is --arch; see"),
        (("train", "--out", "a", "--learning_rate=1"), "unknown option --learning_rate; the one for this is --lr; see"),
        (("bench", "a", "--out", "b", "--workers", "2"), "unknown option --workers; the one for this is --jobs; see"),
        (("attack", "a", "--layer", "3"), "Unknown option: --layer."),  # where nothing here means the same
    ],
)
def test_what_a_command_lacks_or_has_too_much_is_said_in_the_words_of_its_help(given, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(tmp_path, *given).startswith(f"splitveil: {expected}")


def test_options_that_others_name_otherwise_exist_and_each_word_means_one():
    ours = {name for command in COMMANDS for argument in arguments(command) for name in argument.names}
    words = [word for others in OTHER_NAMES.values() for word in others]
    assert {f"--{name}" for name in OTHER_NAMES} <= ours
    assert len(words) == len(set(words))
