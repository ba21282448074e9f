"""The published option strings: what they become, what is said about them, what is refused."""

from __future__ import annotations

import math
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from splitveil import config
from splitveil.errors import UserError
from splitveil.legacy import read_options
from splitveil.legacy.command import run
from splitveil.legacy.defense import read_defense
from splitveil.legacy.options import BottleneckOption, read_bottleneck, read_flags
from splitveil.recipe import learning_rate


def defenses(line: str, reading: str = "paper") -> list[str]:
    return read_options(line.split(), reading=reading).settings["defense"]  # type: ignore[arg-type]


def test_a_bottleneck_string_round_trips():
    @given(st.integers(1, 512), st.integers(1, 2), st.sampled_from([1, 3, 5, 7]), st.booleans())
    def check(channels: int, stride: int, kernel: int, relu: bool) -> None:
        text = f"{'' if relu else 'noRELU_'}K{kernel}C{channels}S{stride}"
        expected = BottleneckOption(channels, stride, kernel if stride == 1 else 3, relu)
        assert read_bottleneck(text) == expected

    check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("noRELU_C8S1", BottleneckOption(8, 1, 3, False)),
        ("norelu_C2", BottleneckOption(2, 1, 3, False)),
        ("C16S2", BottleneckOption(16, 2, 3, True)),
        ("noReLU_K5C8S1", BottleneckOption(8, 1, 5, False)),
        ("None", None),
    ],
)
def test_published_bottleneck_strings(text: str, expected: BottleneckOption | None):
    assert read_bottleneck(text) == expected


@pytest.mark.parametrize("text", ["noRELU_8S1", "noRELUC8S1", "C8S1x", "xC8S1", "C0S1", "C8S0", "", "c8s1"])
def test_other_bottleneck_strings_are_refused(text: str):
    with pytest.raises(UserError, match=re.escape(f"--bottleneck_option '{text}' is no bottleneck")):
        read_bottleneck(text)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("gan_adv", 3),
        ("gan_adv_step1", 1),
        ("gan_adv_step5", 5),
        ("gan_adv_step1_pruning180", 3),
        ("gan_adv_step1_nopeek", 3),
        ("gan_adv_pruning180", 3),
    ],
)
def test_decoder_steps_as_the_published_parser_reads_them(text: str, steps: int):
    assert read_defense(text).steps_of_code == steps


def test_the_misread_steps_are_said_and_given_on_request():
    line = "--AT_regularization gan_adv_step1_pruning180 --AT_regularization_strength 0.3"
    paper, code = read_options(line.split()), read_options(line.split(), reading="code")
    expected = "adversarial:weight=0.3,steps={},share=1,network=res_normN4C64,objective=ssim,padding=zero,threshold=0.5"
    assert paper.settings["defense"] == ["patrol:epoch=180", expected.format(1)]
    assert code.settings["defense"] == ["patrol:epoch=180", expected.format(3)]
    said = [note for note in paper.notes if "says 1 decoder step per batch" in note]
    assert len(said) == 1
    assert "reads 3 (`--reading code` for 3)" in said[0]
    assert not any("decoder step" in n for n in read_options(["--AT_regularization=gan_adv_step1"]).notes)


ADVERSARIAL = "adversarial:weight={:g},steps=1,share=1,network=res_normN4C64,objective=ssim,padding=zero,threshold=0.5"


@pytest.mark.parametrize(
    ("line", "paper", "code"),
    [
        ("--lambd 0", [], []),
        (
            "--lambd 16 --regularization Gaussian_kl --regularization_strength 0.025 --var_threshold 0.0625",
            ["gaussian:sigma=0.025", "cem:weight=16,loss=released,threshold=0.0625"],
            ["gaussian:sigma=0.025", "cem:weight=16,loss=released,threshold=0.0625,refit=augmented"],
        ),
        ("--regularization Gaussian --regularization_strength 0", [], []),
        ("--AT_regularization nopeek --AT_regularization_strength 0", [], []),
        (
            "--AT_regularization nopeek_ttitcombe --AT_regularization_strength 2",
            ["nopeek:weight=2,squared=true"],
            ["nopeek:weight=2,squared=true,normalized=true"],
        ),
        (
            "--AT_regularization nopeek --dataset cifar100",
            ["nopeek:weight=0.03"],
            ["nopeek:weight=0.03,normalized=true"],
        ),
        (
            "--AT_regularization nopeek --AT_regularization_strength 2 --dataset facescrub",
            ["nopeek:weight=0.2"],
            ["nopeek:weight=0.2,normalized=true"],
        ),
        (
            "--AT_regularization gan_adv_step1_nopeek --AT_regularization_strength 0.5 --dataset tinyimagenet",
            [ADVERSARIAL.format(0.5), "nopeek:weight=0.05"],
            [ADVERSARIAL.format(0.5).replace("steps=1", "steps=3"), "nopeek:weight=0.05,normalized=true"],
        ),
        (
            "--AT_regularization gan_adv_step1 --gan_AE_type custom",
            [ADVERSARIAL.format(0.3).replace("res_normN4C64", "custom_released")],
            None,
        ),
        (
            "--AT_regularization gan_adv_noise --AT_regularization_strength 0.1",
            ["adversarial_noise:size=0.1,network=res_normN4C64,objective=ssim,padding=zero"],
            None,
        ),
        (
            "--AT_regularization gan_adv_step1 --AT_regularization_strength 0.1 --gan_loss_type MSE",
            ["adversarial:weight=0.1,steps=1,share=1,network=res_normN4C64,objective=mse,threshold=0.5"],
            None,
        ),
        (
            "--AT_regularization dropout0.2 --AT_regularization_strength 1",
            ["dropout:ratio=0.2"],
            ["dropout:ratio=0.2,rescale=false"],
        ),
        (
            "--AT_regularization dropout --AT_regularization_strength 0.4",
            ["dropout:ratio=0.4"],
            ["dropout:ratio=0.4,rescale=false"],
        ),
        (
            "--AT_regularization topkprune0.2 --AT_regularization_strength 1",
            ["topk:ratio=0.8"],
            ["topk:ratio=0.8,scope=released"],
        ),
        (
            "--AT_regularization local_dp_laplace --AT_regularization_strength 20",
            ["local_dp:epsilon=20,mechanism=laplace"],
            ["laplace:scale=0.05"],
        ),
        (
            "--AT_regularization local_dp --AT_regularization_strength 20",
            ["local_dp:epsilon=20,mechanism=gaussian"],
            [f"gaussian:sigma={math.sqrt(2 * math.log(1.25 / 1e-4)) / 20:.9g}"],
        ),
        (
            "--AT_regularization gan_adv_noise --AT_regularization_strength 0.1 --gan_loss_type MSE",
            ["adversarial_noise:size=0.1,network=res_normN4C64,objective=mse"],
            None,
        ),
        (
            "--AT_regularization SCA_new --bottleneck_option noRELU_C8S1",
            ["sparse_coding:threshold=0.01,form=dense,iterations=1"],
            ["sparse_coding_released:threshold=0.01"],
        ),
        (
            "--AT_regularization SCA --bottleneck_option C8S1 --dataset facescrub",
            ["sparse_coding:threshold=0.01,form=dense,iterations=1"],
            ["sparse_coding_released:threshold=0.01,atoms=1024"],
        ),
        (
            "--AT_regularization SCA_new --bottleneck_option noRELU_C8S1 --arch resnet20",
            ["sparse_coding:form=convolutional,kernel=5"],
            ["sparse_coding_conv_released"],
        ),
        (  # the published code has no such layer without a bottleneck, nor in other networks
            "--AT_regularization SCA_new",
            ["sparse_coding:threshold=0.01,form=dense,iterations=1"],
            [],
        ),
        (
            "--AT_regularization SCA_new --bottleneck_option noRELU_C8S1 --arch resnet32",
            ["sparse_coding:form=convolutional,kernel=5"],
            [],
        ),
        ("--AT_regularization pruning", ["patrol:epoch=140"], None),
        ("--regularization nopeek --regularization_strength 3", ["nopeek:weight=3"], []),
    ],
)
def test_options_become_defenses(line: str, paper: list[str], code: list[str] | None):
    assert defenses(line) == paper
    assert defenses(line, "code") == (paper if code is None else code)
    for reading in ("paper", "code"):  # the plug-ins and their parameters exist
        text = read_options(line.split(), reading=reading).to_yaml()  # type: ignore[arg-type]
        assert len(config.parse(yaml.safe_load(text)).resolve().defense) == len(defenses(line, reading))


@pytest.mark.parametrize(("data", "said"), [("cifar10", 0), ("cifar100", 1), ("tinyimagenet", 1)])
def test_that_distance_correlation_is_weaker_beside_cifar10_is_said(data: str, said: int):
    notes = read_options(["--AT_regularization", "nopeek", "--dataset", data]).notes
    assert sum(f"0.1 times its strength on {data}" in note for note in notes) == said


def test_the_training_recipe_is_carried_over():
    line = "--arch=vgg11_bn_sgm --cutlayer=3 --batch_size=64 --num_epochs=100 --dataset=cifar100"
    line += " --learning_rate=0.02 --random_seed=7 --bottleneck_option noRELU_K5C4S1 --num_client=1"
    line += " --scheme=V2_epoch"
    paper = read_options(line.split()).settings
    expected = {
        "data": "cifar100",
        "arch": "vgg11_bn_sgm",
        "cut": 3,
        "batch_size": 64,
        "epochs": 100,
        "lr": 0.02,
    }
    expected |= {"seed": 7, "bottleneck": 4, "bottleneck_kernel": 5, "bottleneck_relu": False}
    assert expected.items() <= paper.items()
    assert "milestones" not in paper
    assert read_options(line.split(), reading="code").settings["milestones"] == [0.6]
    assert "milestones" not in read_options(["--num_epochs", "120"], reading="code").settings


def test_the_published_resnet_has_a_sigmoid_and_in_the_code_a_wider_stem():
    line = ["--arch", "resnet20", "--lambd", "8"]
    assert read_options(line).settings["arch"] == "resnet20_sgm"
    code = read_options(line, reading="code")
    assert code.settings["arch"] == "resnet20_stem5_sgm"
    assert code.settings["defense"] == ["cem:weight=8,loss=released,threshold=0.125,refit=augmented,clusters=15"]


def test_of_a_flag_given_twice_the_last_counts():
    assert read_flags(["--lambd", "1", "--lambd=2"]) == {"lambd": 2.0}
    assert read_flags(["--local_lr", "-1"]) == {"local_lr": -1.0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--AT_regularisation x", "did you mean '--AT_regularization'"),
        ("--AT_regularization gan_adv_stp1", "did you mean 'gan_adv_step1'"),
        ("--AT_regularization gan_adv_step1_prunning180", "did you mean 'gan_adv_step1_pruning180'"),
        ("--AT_regularization gan_adv_step", "'step' is no part of a defense"),
        ("--AT_regularization step1", "'step1' counts beside gan_adv only, as in gan_adv_step1"),
        ("--AT_regularization nopeek_nopeek", "comes a second time"),
        ("--AT_regularization nopeek_", "'_' is no part of a defense"),
        ("--AT_regularization dropout0.2x", "did you mean 'dropout0.2'"),
        ("--AT_regularization nopeek --AT_regularization_strength -1", "expected 0 or more"),
        ("--AT_regularization nopeek --regularization dropout0.2", "two defenses"),
        ("--AT_regularization gan_adv --gan_loss_type SIM", "did you mean 'SSIM'"),
        ("--regularization Gausian --regularization_strength 1", "did you mean 'Gaussian'"),
        ("--regularization Gaussian", "has no strength"),
        ("--lambd", "--lambd has no value"),
        ("--lambd --cutlayer 4", "--lambd has no value"),
        ("--lambd abc", "--lambd is 'abc'; expected a number"),
        ("--lambd nan", "expected a number"),
        ("--lambd -1", "expected λ of 0 or more"),
        ("--cutlayer 4.5", "expected a whole number"),
        ("--num_client 2", "expected 1"),
        ("--local_lr 0.1", "expected -1"),
        ("--load_from_checkpoint=1", "takes no value"),
        ("--dataset cifar11", "did you mean 'cifar10'"),
        ("--dataset svhn", "folder:PATH"),
        ("--arch vgg11_bm", "did you mean 'vgg11_bn'"),
        ("--batch_size 1", "batch_size is 1"),
        ("--reading cod --lambd 1", "did you mean 'code'"),
        ("", "nothing to translate"),
        ("--root x --lambd 1", "--root is for checkpoint folders"),
    ],
)
def test_bad_options_are_refused_in_one_line(line: str, message: str):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        run(line.split())
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="gan_advstepoprunigSCA0123456789.-Kx", max_size=24))
def test_no_string_is_guessed(text: str):
    try:
        option = read_defense(text)
    except UserError:
        return
    assert text == "None" or option.parts


def test_the_command_prints_yaml_that_train_reads_and_our_names_work():
    line = "--AT_regularization gan_adv_step1_pruning180 --bottleneck 8 --cut 3 --data cifar100 --seed 4"
    text = run(line.split())
    settings = config.parse(yaml.safe_load(text))
    assert (settings.bottleneck, settings.cut, settings.data, settings.seed) == (8, 3, "cifar100", 4)
    assert text.startswith("# note: ")


def test_the_command_writes_a_file_once(tmp_path):
    out = tmp_path / "exp.yaml"
    assert run(["--lambd", "0", "--out", str(out)]) == f"wrote {out}\nnext: splitveil train --config {out} --out RUN\n"
    assert config.load(out)["seed"] == 125
    with pytest.raises(UserError, match="exists"):
        run(["--lambd", "0", "--out", str(out)])


def test_no_note_says_what_the_published_code_does_not_do():
    """The lookup takes a low class, not always class 0; trainings of 120 epochs have milestones of their own."""
    line = "--lambd 16 --regularization Gaussian --regularization_strength 0.025 --num_epochs 100"
    said = " ".join(read_options(line.split()).notes)
    assert "most classes use a low class's" in said
    assert "of all but 120 epochs" in said
    assert not any("milestones" in key for key in read_options(["--num_epochs=120"], reading="code").settings)


@pytest.mark.parametrize(("epochs", "differ"), [(240, [1, 60, 120, 180, 210]), (120, [1, 30, 60, 90, 105])])
@pytest.mark.parametrize("lr", [0.05, 0.01])
def test_epochs_whose_rate_differs_from_the_published_one(epochs: int, differ: list[int], lr: float):
    """docs/legacy.md: the published scheduler is told the number of the epoch that begins, counted from 1."""
    settings = config.parse(read_options([f"--num_epochs={epochs}", f"--learning_rate={lr}"]).settings).resolve()
    found = []
    for epoch in range(1, epochs + 1):
        theirs = 0.0 if epoch == 1 else lr * 0.2 ** sum(epoch >= m for m in differ[1:])
        ours = learning_rate(settings, (epoch - 0.5) / epochs)
        if ours != pytest.approx(theirs, rel=1e-9):
            found.append(epoch)
    assert found == differ
