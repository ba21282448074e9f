"""Published-style scripts: loops become a grid, nothing is executed, other shell is refused with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from splitveil import config
from splitveil.errors import UserError
from splitveil.legacy import read_script
from splitveil.legacy.command import run
from splitveil.legacy.script import cells
from splitveil.legacy.shell import calls

SCRIPT = r"""#!/bin/bash
# cd "$(dirname "$0")"
GPU_id=0
arch=vgg11_bn_sgm ##a comment; with "quotes
seeds="125 126"
cutlayer_list="4"
AT_regularization=gan_adv_step1 #"dropout0.2;nopeek"
AT_regularization_strength=0.3
regularization='Gaussian_kl' #'Gaussian_Nonekl'
strengths="0.01 0.025"
lambd_list="0 16" #
folder_name="saves/${AT_regularization}_x"
pretrain="False"
echo "start; for nothing"
touch %s
for lambd in $lambd_list; do
  for strength in $strengths
  do
    for cutlayer in $cutlayer_list; do for seed in $seeds; do
      filename=pretrain_${pretrain}_lambd_${lambd}
      if [ "$pretrain" = "True" ]; then
        num_epochs=80
        CUDA_VISIBLE_DEVICES=${GPU_id} python main_MIA.py --load_from_checkpoint
      else
        num_epochs=240
        CUDA_VISIBLE_DEVICES=${GPU_id} python main_MIA.py --arch=${arch}  --cutlayer=$cutlayer \
          --filename=$filename --num_epochs=$num_epochs --dataset cifar10 --lambd $lambd \
          --regularization=${regularization} --regularization_strength=${strength} \
          --AT_regularization=${AT_regularization} --AT_regularization_strength=${AT_regularization_strength}\
          --random_seed=$seed --bottleneck_option noRELU_C8S1 --folder ${folder_name} 2>&1 | tee log
      fi
      N=8
      decoder=res_normN${N}C64
      python main_test_MIA.py --filename=$filename --gan_AE_type custom --attack_epochs=50 \
        --gan_AE_type ${decoder} --test_best
    done; done
  done
done
"""


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run_exp.sh"
    path.write_text(text, encoding="utf-8")
    return path


def test_nested_loops_become_a_grid_and_nothing_is_executed(tmp_path: Path):
    witness = tmp_path / "executed"
    grid = read_script(script(tmp_path, SCRIPT % witness))
    assert not witness.exists()
    decoder = "adversarial:weight=0.3,steps=1,share=1,network=res_normN4C64,objective=ssim,padding=zero,threshold=0.5"
    cem = "cem:weight=16,loss=released,threshold=0.125"
    assert grid.axes == {
        "defense": [
            ["gaussian:sigma=0.01", decoder],
            ["gaussian:sigma=0.025", decoder],
            ["gaussian:sigma=0.01", decoder, cem],
            ["gaussian:sigma=0.025", decoder, cem],
        ],
        "seed": [125, 126],
    }
    assert {"data": "cifar10", "cut": 4, "bottleneck": 8, "epochs": 240}.items() <= grid.base.items()
    assert grid.attacks == ("decoder:epochs=50,network=res_normN8C64",)


@pytest.mark.parametrize(
    ("name", "network", "said"),
    [("custom", "custom_released", 0), ("conv_normN0C16", "conv_normN0C16", 1), ("res_normN2C8", "res_normN2C8", 0)],
)
def test_the_decoder_of_the_attack_is_the_published_network_or_it_is_said(tmp_path: Path, name, network, said):
    text = f"python main_MIA.py --dataset cifar10\npython main_test_MIA.py --gan_AE_type {name}\n"
    (run,) = read_script(script(tmp_path, text)).runs
    assert run.attacks == (f"decoder:network={network}",)
    assert sum(f"the published {name} has dropout" in note for note in run.notes) == said


def test_the_grid_file_holds_every_training_of_the_script(tmp_path: Path):
    path = script(tmp_path, SCRIPT % "x")
    grid, text = read_script(path), run([str(path)])
    values = yaml.safe_load(text)
    assert values == {"base": grid.base, "grid": grid.axes}
    assert "&" not in text  # no YAML anchors
    assert [run_.settings for run_ in grid.runs] == sorted(cells(grid), key=[run_.settings for run_ in grid.runs].index)
    assert len(cells(grid)) == 8
    for settings in cells(grid):
        config.parse(settings).resolve()


def test_one_training_is_a_plain_configuration(tmp_path: Path):
    path = script(tmp_path, "x=4\npython3 -u ./code/main_MIA_xs.py --cutlayer=$x --dataset cifar10 &\n")
    text = run([str(path), "--reading", "code"])
    assert config.parse(yaml.safe_load(text)).cut == 4


def test_settings_that_are_no_product_are_rows(tmp_path: Path):
    text = "".join(
        f"python main_MIA.py --random_seed {seed} --cutlayer {cut}\n" for seed, cut in ((1, 2), (2, 3), (1, 3))
    )
    grid = read_script(script(tmp_path, text))
    assert yaml.safe_load(grid.to_yaml())["zip"] == {"cut": [2, 3, 3], "seed": [1, 2, 1]}
    assert [(c["seed"], c["cut"]) for c in cells(grid)] == [(1, 2), (2, 3), (1, 3)]


def test_repeated_trainings_count_once(tmp_path: Path):
    grid = read_script(script(tmp_path, "for x in a b; do python main_MIA.py --filename $x; done"))
    assert len(grid.runs) == 1
    assert not grid.axes


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ('a="x y"; python main_MIA.py $a "$a" \'$a\' ${a}z', ["x", "y", "x y", "$a", "x", "yz"]),
        ("a='1' true\npython main_MIA.py --x=\"q;r\" # end", ["--x=q;r"]),
        ("export a=1\nnohup python main_MIA.py $a > log 2>&1 &", ["1"]),
        ("cd there && python main_MIA.py --a \\\n  1\\\n  2", ["--a", "1", "2"]),
        ("a=1 # b \\\npython main_MIA.py $a", ["1"]),
        (
            'if [[ x == y ]]; then a=1; elif [ "b" != "c" ]; then a=2; else a=3; fi\npython main_MIA.py $a',
            ["2"],
        ),
        ('if [ $? -eq 0 ]; then echo "good"; fi; python main_MIA.py ok', ["ok"]),
        ("python main_MIA.py a#b", ["a#b"]),
    ],
)
def test_shell_words(text: str, argv: list[str]):
    assert [call.argv for call in calls(text)] == [argv]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "calls no main_MIA.py"),
        ("python other.py --lambd 1", "calls no main_MIA.py"),
        ("\nx=$(date)\npython main_MIA.py --lambd $x", "line 3: --lambd takes its value from"),
        ("python main_MIA.py --lambd=$undefined", "line 1: --lambd takes its value from $undefined,"),
        ("for x in $(seq 3); do\npython main_MIA.py\ndone", "line 1: the list $(seq 3) is not known"),
        ("a=(1 2)\nfor i in ${!a[*]}; do python main_MIA.py; done", "line 2: the list ${!a[*]} is not known"),
        ("for x in 1 2; do\npython main_MIA.py", "line 1: this for has no done"),
        ("if [ a = a ]; then python main_MIA.py", "line 1: this if has no fi"),
        ("done", "line 1: 'done' without its for or if"),
        ("while true; do python main_MIA.py; done", "line 1: 'while' is not read"),
        ("f() { python main_MIA.py; }", "is not read"),
        ('x="never closed', 'line 1: a " is never closed'),
        ("if [ $? -eq 0 ]; then\npython main_MIA.py; fi", "line 1: 'if [ $? -eq 0 ]' cannot be decided"),
        ("\n\npython main_MIA.py --AT_regularization nopeak", "line 3: --AT_regularization nopeak"),
        ("python main_MIA.py; python main_test_MIA.py --attak_epochs 3", "did you mean '--attack_epochs'"),
        (
            "\n".join(f"for x{i} in {' '.join(map(str, range(10)))}; do" for i in range(9))
            + "\npython main_MIA.py\n"
            + "done\n" * 9,
            "shorten",
        ),
        (
            "for a in " + "1 " * 500 + "; do for b in " + "1 " * 500 + "; do x=1; done; done",
            "shorten the lists",
        ),
    ],
)
def test_other_shell_is_refused_with_its_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_script(script(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_script(tmp_path: Path):
    with pytest.raises(UserError, match="cannot read"):
        run([str(tmp_path / "none.sh")])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no text"):
        run([str(tmp_path / "binary")])
    with pytest.raises(UserError, match="an option of its own"):
        run([str(script(tmp_path, SCRIPT)), "--lambd", "1"])
    with pytest.raises(UserError, match="give one script or one folder"):
        run(["a", "b"])
