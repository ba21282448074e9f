"""Every flag of the two published parsers is translated, said or refused: none is accepted and dropped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from splitveil import config
from splitveil.errors import UserError
from splitveil.legacy import read_options, read_script
from splitveil.legacy.attack import attack_spec
from splitveil.legacy.command import run
from splitveil.legacy.options import PARSER, read_flags
from splitveil.legacy.translate import BESIDE, RECIPE, UNSAID
from splitveil.legacy.wire import shrinking

SWITCH = "a flag without a value"
BOTH: dict[str, tuple[Any, Any]] = {
    "arch": ("vgg11_bn", "resnet20"),
    "cutlayer": (4, 3),
    "batch_size": (128, 64),
    "filename": (None, "x"),
    "folder": ("saves", "y"),
    "num_client": (1, 2),
    "dataset": ("cifar10", "cifar100"),
    "scheme": ("V2_epoch", "V3_epoch"),
    "regularization": ("None", "Gaussian_kl"),
    "regularization_strength": (0, 0.05),
    "var_threshold": (0.1, 0.2),
    "AT_regularization": ("None", "nopeek"),
    "AT_regularization_strength": (0, 0.7),
    "log_entropy": (0, 1),
    "gan_AE_type": ("custom", "conv_normN0C16"),
    "gan_loss_type": ("SSIM", "MSE"),
    "bottleneck_option": ("None", "noRELU_C8S1"),
}
"""Flag -> the parser's default and another value, as `main_MIA.py` and `main_test_MIA.py` have them."""
TRAINING: dict[str, tuple[Any, Any]] = BOTH | {
    "num_epochs": (100, 90),
    "random_seed": (123, 7),
    "learning_rate": (0.01, 0.03),
    "lambd": (1.0, 8.0),
    "dataset_portion": (1.0, 0.5),
    "client_sample_ratio": (1.0, 0.5),
    "noniid": (1.0, 0.1),
    "local_lr": (-1, 0.01),
    "ssim_threshold": (0.0, 0.4),
    "optimize_computation": (1, 5),
    "decoder_sync": (None, SWITCH),
    "load_from_checkpoint": (None, SWITCH),
    "load_from_checkpoint_server": (None, SWITCH),
    "transfer_source_task": ("cifar100", "cifar10"),
    "finetune_freeze_bn": (None, SWITCH),
    "save_more_checkpoints": (None, SWITCH),
    "initialize_different": (None, SWITCH),
}
ATTACK: dict[str, tuple[Any, Any]] = BOTH | {
    "num_epochs": (200, 90),
    "random_seed": (125, 7),
    "log_entropy": (0, 0.5),
    "test_best": (None, SWITCH),
    "average_time": (1, 5),
    "target_client": (0, 1),
    "attack_scheme": ("MIA", "MIA_mf"),
    "attack_epochs": (50, 30),
    "attack_from_later_layer": (-1, 2),
    "attack_loss_type": ("MSE", "SSIM"),
    "MIA_optimizer": ("Adam", "SGD"),
    "MIA_lr": (0.001, 0.01),
    "save_activation_tensor": (None, SWITCH),
    "attack_confidence_score": (None, SWITCH),
    "measure_option": (None, SWITCH),
    "noise_aware": (None, SWITCH),
    "new_log_folder": (None, SWITCH),
    "bhtsne_option": (None, SWITCH),
}
REFUSED = ("num_client", "local_lr", "dataset_portion", "client_sample_ratio", "noniid", "optimize_computation")
NOISE = "--regularization Gaussian --regularization_strength 0.025"
TRAIN = f"python main_MIA.py --lambd 16 {NOISE} --AT_regularization gan_adv_step1"
TEST = f"python main_test_MIA.py {NOISE}"


def word(flag: str, value: Any) -> str:
    return f" --{flag}" if value == SWITCH else f" --{flag} {value}"


def outcome(text: str, path: Path, reading: Any) -> tuple[Any, set[str]]:
    """What is trained and attacked, and what is said; of a refusal the message."""
    path.write_text(text, encoding="utf-8")
    try:
        grid = read_script(path, reading=reading)
    except UserError as error:
        return None, {str(error)}
    assert len(grid.runs) == 1
    config.parse(grid.runs[0].settings).resolve()
    for attack in grid.attacks:
        config.Spec.model_validate(attack).resolve("attacks").make("attacks")
    return (grid.runs[0].settings, grid.attacks), set(grid.notes)


def test_these_are_the_flags_that_are_read():
    assert (len(TRAINING), len(ATTACK), len(TRAINING | ATTACK)) == (34, 34, 49)
    for flags, attack in ((TRAINING, False), (ATTACK, True)):
        words = [part for name, (_, value) in flags.items() for part in word(name, value).split()]
        assert read_flags(words, attack=attack).keys() == flags.keys()
    only = {"--" + name for name in TRAINING.keys() ^ ATTACK.keys()}
    for flag in only:
        with pytest.raises(UserError, match=rf"{flag} is no option of the published"):
            read_flags([flag, "1"], attack=flag[2:] in TRAINING)


VALUES = [(flag, other) for flag, (_, other) in TRAINING.items()] + list(PARSER.items())


@pytest.mark.parametrize("reading", ["paper", "code"])
@pytest.mark.parametrize(("flag", "value"), VALUES)
def test_a_flag_of_the_training_counts_or_is_named(tmp_path: Path, reading: str, flag: str, value: Any):
    base, before = outcome(TRAIN, tmp_path / "a.sh", reading)
    made, after = outcome(TRAIN + word(flag, value), tmp_path / "b.sh", reading)
    named = {note for note in before ^ after if re.search(rf"(?<!\w){flag}(?!\w)", note)}
    assert named or made not in (None, base)
    assert (made is None) == (flag in REFUSED)


@pytest.mark.parametrize("train", ["python main_MIA.py", TRAIN, "python main_MIA.py --lambd 8"])
@pytest.mark.parametrize("name", BESIDE)
def test_an_option_that_nothing_reads_beside_the_others_is_named(tmp_path: Path, train: str, name: str):
    value = 0.5 if name == "log_entropy" else TRAINING[name][1]
    base, before = outcome(train, tmp_path / "a.sh", "paper")
    made, after = outcome(train + word(name, value), tmp_path / "b.sh", "paper")
    (note,) = [note for note in after if "read beside these options" in note] or [""]
    assert (f"--{name}" in note) == (made == base and before == after - {note})


def test_a_threshold_beside_another_loss_is_not_read():
    line = "--AT_regularization gan_adv --gan_loss_type MSE --ssim_threshold 0.4"
    assert any("code: --ssim_threshold" in note for note in read_options(line.split()).notes)


@pytest.mark.parametrize("reading", ["paper", "code"])
@pytest.mark.parametrize("flag", ATTACK)
@pytest.mark.parametrize("scheme", ["MIA", "MIA_mf", "MIA_truncate20"])
def test_a_flag_of_the_attack_counts_or_is_named(tmp_path: Path, reading: str, flag: str, scheme: str):
    value = "MIA_truncate9" if (flag, scheme) == ("attack_scheme", "MIA_mf") else ATTACK[flag][1]
    test = f"{TRAIN} --filename z\n{TEST} --filename z --attack_scheme {scheme}"
    base, before = outcome(test, tmp_path / "a.sh", reading)
    made, after = outcome(test + word(flag, value), tmp_path / "b.sh", reading)
    named = {note for note in before ^ after if re.search(rf"(?<!\w){flag}(?!\w)", note)}
    if flag == "filename":  # names another training
        named = {note for note in after if "attacks saves/x, which the script does not train" in note}
    elif flag == "folder":
        assert (made, after) == (base, before)  # where the training names none, any is its own
        named = outcome(f"{TRAIN} --folder w\n{TEST} --folder y", tmp_path / "c.sh", reading)[1]
        named = {note for note in named if "attacks a network" in note}
    assert named or made not in (None, base)
    assert (made is None) == (flag in REFUSED)


@pytest.mark.parametrize("flag", sorted(ATTACK.keys() - TRAINING.keys() | {"gan_AE_type", "num_client"}))
def test_a_flag_of_an_attack_alone_counts_or_is_named(tmp_path: Path, flag: str):
    def message(line: str) -> str:
        path = tmp_path / "a.sh"
        path.write_text(line)
        with pytest.raises(UserError) as refused:
            read_script(path)
        return str(refused.value)

    assert message(TEST + word(flag, ATTACK[flag][1])) != message(TEST)


def test_the_page_has_every_flag_and_every_value_that_is_not_the_parsers():
    page = (Path(__file__).parents[2] / "docs" / "legacy.md").read_text(encoding="utf-8")
    assert [flag for flag in TRAINING | ATTACK if f"`{flag}`" not in page] == []
    for flag, (default, _) in TRAINING.items():
        taken = (UNSAID | RECIPE | {"lambd": 0.0}).get(flag, default)
        shown = [value if isinstance(value, str) else f"{value:g}" for value in (taken, default) if value is not None]
        if len(set(shown)) > 1:
            assert f"| `{flag}` | {shown[0]} | {shown[1]} |" in page
            assert flag in PARSER or flag == "AT_regularization_strength"


@pytest.mark.parametrize(
    ("line", "said", "not_said"),
    [
        ("--lambd 0", ["arch vgg11_bn_sgm (vgg11_bn)", "num_epochs 240 (100)"], ["var_threshold", "gan_AE_type"]),
        ("--lambd 8", ["var_threshold 0.125 (0.1)", "log_entropy 1 (0)", "random_seed 125 (123)"], ["ssim_threshold"]),
        ("--AT_regularization gan_adv", ["gan_AE_type res_normN4C64 (custom)", "ssim_threshold 0.5 (0)"], ["log_"]),
        ("--AT_regularization gan_adv --gan_loss_type MSE", ["gan_AE_type"], ["ssim_threshold"]),
        ("--AT_regularization gan_adv --AT_regularization_strength 0", ["arch"], ["gan_AE_type"]),
        ("--arch vgg11_bn --random_seed 125 --num_epochs 240", ["learning_rate 0.05 (0.01)"], ["arch", "seed"]),
    ],
)
@pytest.mark.parametrize("reading", ["paper", "code"])
def test_values_that_are_not_the_parsers_are_said_where_they_count(line: str, said: Any, not_said: Any, reading: Any):
    (note,) = [n for n in read_options(line.split(), reading=reading).notes if n.startswith("not given, so as in")]
    assert all(words in note for words in said)
    assert not any(words in note for words in not_said)


def test_a_full_command_line_has_no_note_on_defaults():
    line = "--arch vgg11_bn_sgm --num_epochs 240 --learning_rate 0.05 --random_seed 1 --lambd 0"
    assert not [note for note in read_options(line.split()).notes if "not given" in note]
    assert any("lambd is not given: CEM is off" in note for note in read_options(["--cutlayer", "4"]).notes)


@pytest.mark.parametrize(
    ("line", "attack", "said"),
    [
        ("", "decoder:network=custom_released", "decoder custom, its default, for a wire as large as the image"),
        ("--gan_AE_type res_normN8C64", "decoder:network=res_normN8C64", ""),
        ("--gan_AE_type res_normN8C64 --MIA_lr 0.002", "decoder:network=res_normN8C64,lr=0.002", ""),
        ("--gan_AE_type res_normN8C64 --MIA_optimizer SGD --MIA_lr 3", "decoder:network=res_normN8C64", "by Adam"),
        ("--attack_scheme MIA_mf --attack_epochs 10", "rmle:steps=600,tv=0,l2=0,start=grey", "3 scores where 6"),
        ("--attack_scheme MIA_mf", "rmle:steps=3000,tv=0,l2=0,start=grey", "without priors"),
        ("--attack_scheme MIA_truncate20 --gan_AE_type custom", "decoder:network=custom_released", "the whole wire"),
        ("--attack_confidence_score --attack_epochs 5", "confidence:epochs=5", "an attack on the logits"),
        ("--attack_loss_type L1 --attack_epochs 5", "decoder:epochs=5,network=custom_released", "learns by MSE"),
    ],
)
def test_the_attack_of_a_command_line(line: str, attack: str, said: str):
    notes: list[str] = []
    assert attack_spec(read_flags(line.split(), attack=True), {}, "paper", notes) == attack
    assert any(said in note for note in notes)


def test_confidence_is_the_wire_in_the_codes_reading():
    flags = {"attack_confidence_score": True, "gan_AE_type": "res_normN8C64"}
    assert attack_spec(flags, {}, "code", notes := []) == "decoder:network=res_normN8C64"
    assert any("does not reach the published attack" in note for note in notes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--attack_scheme MIA_fm", "--attack_scheme 'MIA_fm' is unknown; did you mean 'MIA_mf'?"),
        ("--attack_loss_type MES", "--attack_loss_type 'MES' is unknown; did you mean 'MSE'?"),
        ("--MIA_optimizer Adan", "--MIA_optimizer 'Adan' is unknown; did you mean 'Adam'?"),
        ("--gan_AE_type simple", "--gan_AE_type 'simple' is no decoder; expected custom"),
        ("--gan_AE_type res_normN4", "--gan_AE_type 'res_normN4' is no decoder; expected"),
        ("--lambd 16", "--lambd is no option of the published main_test_MIA.py, but of main_MIA.py"),
        ("--gan_AE_type costum", "--gan_AE_type 'costum' is no decoder; did you mean 'custom'?"),
        ("--attack_epoch 3", "'--attack_epoch' is no option of the published code; did you mean '--attack_epochs'?"),
    ],
)
def test_bad_options_of_the_attack_are_refused_with_their_line(tmp_path: Path, line: str, message: str):
    path = tmp_path / "a.sh"
    path.write_text(f"python main_MIA.py --lambd 0\npython main_test_MIA.py {line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.sh, line 2: " + re.escape(message)) as caught:
        run([str(path)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["--attack_epochs 3", "--test_best", "--MIA_lr=1"])
def test_options_of_the_attack_are_no_training(line: str):
    with pytest.raises(UserError, match="its attack; here: splitveil attack RUN --attack decoder"):
        run(line.split())


def test_an_attack_belongs_to_the_training_whose_files_it_names(tmp_path: Path):
    path = tmp_path / "a.sh"
    path.write_text(
        "for l in 0 16; do python main_MIA.py --filename=a_$l --folder s --lambd $l; done\n"
        "for l in 0 16; do for n in 2 4; do\n"
        "  python main_test_MIA.py --filename=a_$l --folder s --gan_AE_type res_normN${n}C$l --test_best\ndone; done\n"
        "python main_test_MIA.py --filename elsewhere --gan_AE_type res_normN8C8 --MIA_optimizer SGD",
        encoding="utf-8",
    )
    text = path.read_text(encoding="utf-8").replace("C$l", "C1$l")
    path.write_text(text, encoding="utf-8")
    grid = read_script(path)
    name = "decoder:network=res_normN{}C{}"
    assert [run_.attacks for run_ in grid.runs] == [
        tuple(name.format(n, width) for n in (2, 4)) for width in ("10", "116")
    ]
    assert any("line 5 attacks saves/elsewhere, which the script does not train" in note for note in grid.notes)
    assert any("--MIA_optimizer SGD" in note for note in grid.notes)
    (line,) = [line for line in grid.to_yaml().splitlines() if line.startswith("# the published attacks:")]
    assert line.count("--attack ") == 4
    assert yaml.safe_load(grid.to_yaml())["grid"]


def test_attacks_of_equal_trainings_are_kept(tmp_path: Path):
    path = tmp_path / "a.sh"
    path.write_text(
        "for n in 2 4; do python main_MIA.py --lambd 0; python main_test_MIA.py --gan_AE_type res_normN${n}C8; done",
        encoding="utf-8",
    )
    grid = read_script(path)
    assert len(grid.runs) == 1
    assert grid.attacks == ("decoder:network=res_normN2C8", "decoder:network=res_normN4C8")


def test_attacks_alone_lead_to_the_import(tmp_path: Path):
    path = tmp_path / "a.sh"
    path.write_text("\npython main_test_MIA.py --filename f --gan_AE_type res_normN8C64", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.sh, line 2 attacks saves/f.*--attack decoder:network=res_normN8C64; wi"):
        read_script(path)


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (NOISE, "", "not told the training's --regularization Gaussian"),
        (NOISE, NOISE, ""),
        ("", "--regularization Gaussian --regularization_strength 0.1", "--regularization of the attack is Gaussian"),
        ("--arch resnet20", "--arch resnet32", "--arch of the attack is resnet32, of the training resnet20"),
        ("--arch resnet20", "--arch resnet20", ""),
        ("", "--arch vgg11_bn_sgm --num_epochs 240 --log_entropy 1", ""),
    ],
)
def test_what_the_attack_is_told_of_the_network_otherwise_is_said(tmp_path: Path, train: str, test: str, said: str):
    path = tmp_path / "a.sh"
    path.write_text(f"python main_MIA.py {train}\npython main_test_MIA.py {test}", encoding="utf-8")
    notes = read_script(path).notes
    told = [note for note in notes if "of the attack is" in note or "is not told" in note]
    assert bool(told) == bool(said)
    assert all(said in note for note in told[:1])


@pytest.mark.parametrize(
    ("line", "times"),
    [
        ("--cutlayer 4", 4),
        ("--cutlayer 3", 2),
        ("--arch resnet20 --cutlayer 4", 2),
        ("--bottleneck_option C8S2", 8),
        ("--dataset tinyimagenet", 4),
        ("--dataset folder:x", None),
        ("--cutlayer 99", None),
    ],
)
def test_a_decoder_of_another_form_on_this_wire_is_said(tmp_path: Path, line: str, times: int | None):
    flags = UNSAID | RECIPE | read_flags(line.split())
    assert shrinking(flags) == times
    if "99" in line:
        return
    notes = read_options(f"--AT_regularization gan_adv {line}".split()).notes
    assert any("has residual blocks in place of" in note for note in notes) == (times == 2)
    path = tmp_path / "a.sh"
    path.write_text(f"python main_MIA.py {line}\npython main_test_MIA.py --gan_AE_type res_normN8C64", encoding="utf-8")
    notes = read_script(path).notes
    assert any("fails on another, as this one" in note for note in notes) == (times in (2, 8))
