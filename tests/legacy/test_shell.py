"""Scripts are read as bash runs them, or refused: real bash, with a `python` that notes its arguments, is the judge."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.legacy import read_script
from splitveil.legacy.shell import calls
from splitveil.legacy.words import LOOSE, SOLID

# One write for each call: those of background processes must not mix.
NOTE = '#!/bin/sh\ncall=$(printf "%s\\036" "$@"; printf "\\035.")\nprintf %s "${call%.}" >> "$CALLS"\n'
TRAIN = "python main_MIA.py"
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="compares with bash")


class Bash:
    """Runs scripts with a `python` that does nothing but note its arguments."""

    def __init__(self, root: Path):
        self.root, self.runs = root, 0
        (root / "bin").mkdir()
        for name, text in {"python": NOTE, "module": "#!/bin/sh\n", "conda": "#!/bin/sh\n", "activate": ""}.items():
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)
        shutil.copy(root / "bin" / "python", root / "bin" / "python3")

    def calls(self, text: str) -> list[list[str]]:
        """The arguments, from the script's name on, of the published scripts that run."""
        self.runs += 1
        place = self.root / str(self.runs)
        (place / "there").mkdir(parents=True)
        (place / "run.sh").write_text(text, encoding="utf-8")
        env = {"PATH": f"{self.root / 'bin'}:/usr/bin:/bin", "CALLS": str(place / "calls"), "HOME": "/home/nobody"}
        subprocess.run(
            ["bash", "run.sh"], cwd=place, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
        noted = (place / "calls").read_text(encoding="utf-8") if (place / "calls").exists() else ""
        found = []
        for argv in (record.split("\036")[:-1] for record in noted.split("\035")[:-1]):
            script = next((i for i, word in enumerate(argv) if re.fullmatch(r"(.*/)?main_\w*MIA\w*\.py", word)), None)
            found += [] if script is None else [[argv[script].rpartition("/")[2], *argv[script + 1 :]]]
        return found


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Bash:
    return Bash(tmp_path_factory.mktemp("bash"))


def written(text: str) -> str:
    """A script of the tables below, where TRAIN is short for the call."""
    return re.sub(r"\bTRAIN\b", TRAIN, text)


def ours(text: str) -> list[list[str]]:
    return [[call.script, *call.argv] for call in calls(text)]


def same(read: list[list[str]], ran: list[list[str]]) -> bool:
    """Whether the calls are the same; a part that is said to be unknown may be anything."""
    if [len(argv) for argv in read] != [len(argv) for argv in ran]:
        return False
    pairs = ((left, right) for a, b in zip(read, ran, strict=True) for left, right in zip(a, b, strict=True))
    pattern = re.compile(f"{SOLID}[^{SOLID}]*{SOLID}")
    return all(re.fullmatch("(?s:.*)".join(map(re.escape, pattern.split(left))), right) for left, right in pairs)


SAME = r"""
TRAIN --lambd 4 && TRAIN --lambd 16
----
extra='--lambd 16'
extra+=' --regularization Gaussian --regularization_strength 0.025'
TRAIN $extra
----
for l in 0 8 16; do
 if [ "$l" = 8 ]; then continue; fi
 TRAIN --lambd $l
done
----
[ train = attack ] && TRAIN --lambd 16
TRAIN --lambd 4
----
TRAIN 1; exit; TRAIN 2
----
TRAIN 1 || TRAIN 2; false || TRAIN 3; false && TRAIN 4; true && TRAIN 5
----
TRAIN 1; TRAIN 2 || TRAIN 3 && TRAIN 4
----
TRAIN 1 & TRAIN 2 & wait
----
for i in 1 2 3; do TRAIN $i & done; wait
----
nohup TRAIN 1 > log 2>&1 &
wait
----
TRAIN 1 2>&1 | tee log
----
TRAIN 1 |& tee log; TRAIN 2 &> log; TRAIN 3 >& log; > log TRAIN 4 >> log 5
----
time TRAIN 1; CUDA_VISIBLE_DEVICES=0 TRAIN 2; env A=1 B=2 TRAIN 3; nice -n 5 TRAIN 4; stdbuf -oL TRAIN 5
----
echo TRAIN --lambd 4; TRAIN --lambd 8
----
script=main_MIA.py; python $script --lambd 4; PY="python -u"; $PY main_MIA.py 5; "python" main"_MIA".'py' 6
----
all="TRAIN --dataset cifar10"; $all --lambd 4 && $all --lambd 16
----
python3 ./code/main_MIA_xs.py 1; python -u main_test_MIA.py 2; python -W ignore main_MIA.py 3
----
python "$HOME/main_MIA.py" 1; python $HOME/code/main_MIA.py 2
----
python prepare.py && TRAIN 1; python -c "import os"; python train_gan.py; TRAIN 2
----
python -m pip list; TRAIN 1
----
cd there && TRAIN 1; mkdir -p x/y && cd x || exit 1; TRAIN 2
----
module load cuda && source activate there; conda activate x; TRAIN 1
----
nvidia-smi; date; sleep 0; hostname; ls; cat run.sh | head -2; cp run.sh a; mv a b; rm b; TRAIN 1
----
for l in 1 2; do for m in 3 4; do [ $m = 4 ] && continue 2; TRAIN $l $m; done; done
----
for l in 1 2; do for m in 3 4; do [ $m = 4 ] && break; TRAIN $l $m; done; TRAIN $l; done
----
for l in 1 2; do for m in 3 4; do [ $m = 3 ] && break 7; TRAIN $l $m; done; TRAIN $l; done; TRAIN $m
----
for i in 1 2 3; do [ $i = 2 ] && exit; TRAIN $i; done; TRAIN no
----
for i in 1 2 3; do { [ $i = 2 ] && exit; TRAIN $i; } & done; wait; TRAIN 4
----
for i in; do TRAIN $i; done; for i in 1 \
 2 # some
do # more
 TRAIN $i # words
done; TRAIN $i
----
list="a b"; for i in $list c "$list"; do TRAIN "$i" $i; done > log
----
x=1; for i in 1 2; do TRAIN $i; x=2; done | tee log; TRAIN $x; { x=3; } | cat; TRAIN $x; { x=4; TRAIN; }; TRAIN $x
----
TRAIN 1; if [ $? -eq 0 ]; then echo good; else exit 1; fi; TRAIN 2
----
for i in 1 2; do TRAIN $i; if [ $? -ne 0 ]; then continue; fi; TRAIN x$i; done
----
TRAIN 1 | tee log; if [ ${PIPESTATUS[0]} -ne 0 ]; then exit 1; fi; TRAIN 2
----
false; x=$? y=$(false) z=$?; TRAIN $x $z; TRAIN $?; [ ]; TRAIN $?; [ = a ]; TRAIN $?; x=$(exit 3); TRAIN $?
----
if TRAIN 1; then TRAIN 2; fi; if ! TRAIN 3; then TRAIN 4; fi; ! true && TRAIN 5; ! false && TRAIN 6
----
if false; then TRAIN 1; elif [ a = b ] || [ a != b ]; then TRAIN 2; else TRAIN 3; fi
----
if [ a ]; then TRAIN 1; fi; if [ ! "" ]; then TRAIN 2; fi
if test -n a; then TRAIN 3; fi; if [ -z "" ]; then TRAIN 4; fi
----
x=3; [ $x -lt 4 ] && TRAIN 1; [ $x -ge 4 ] || TRAIN 2; [ 0.5 -lt 4 ] && TRAIN 3; [ 08 -eq 8 ] && TRAIN 4
----
x="a b"; [[ $x == "a b" ]] && TRAIN 1; [[ ! $x != a ]] || TRAIN 2; [[ -n $x ]] && TRAIN 3; [[ 3 -gt 2 ]] && TRAIN 4
----
[ 5 > 3 ] && TRAIN 1; [ 2 > 3 ] && TRAIN 2
----
if [ -d there ]; then mkdir -p more; echo yes; fi; [[ -f run.sh ]] && echo yes; ls nowhere || echo no; TRAIN 1
----
{ [ a = b ] || { TRAIN 1; TRAIN 2; }; } && TRAIN 3
----
set -e; false; TRAIN 1
----
set -e
false || true; [ a = b ] && TRAIN 0; if false; then TRAIN 1; fi; ! true; { false && true; }
cd there; mkdir -p a/b; export Z=1; x=$(date +%F); echo $x | tee log; TRAIN 2 | tee log
TRAIN 3
x=$(false); TRAIN 4
----
set -euo pipefail
script_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
log_dir="${script_dir}/log"; mkdir -p "$log_dir"
stamp="$(date +"%Y%m%d_%H%M%S")"
exec > >(tee -a "$log_dir/${stamp}.txt") 2>&1
TRAIN --folder "$log_dir" --filename run_$stamp
false | tee log
TRAIN 2
----
set -e; for i in 1 2; do [ $i = 1 ]; TRAIN $i; done; TRAIN no
----
set -e; { false; TRAIN 1; } | tee log; if { false; true; }; then TRAIN 2; fi
----
x='a  b'; TRAIN $x "$x" pre$x"post $x"'$x'\$x ${x}z
----
x=; TRAIN $x "" '' "$x" a ${x:-d} ${x-e} ${x:+f} ${x+g}; x=1; TRAIN ${x:+f} ${x:-h}
----
TRAIN "a\"b" 'a\b' a\ b "a\b" "\$x" "\\" a#b é '"' "'" a{b}c {a} ! [ ] {} if done #c
----
TRAIN --a \
 1 \
 2; TRAIN a\
b "c\
d" 'e\
f'
----
x='*'; TRAIN "$x"; x='"a b"'; TRAIN $x; x='a
b'; TRAIN $x "$x"
----
export X=4; export Y=$X Z; TRAIN $X $Y; X=5 true; TRAIN $X; none=; X=6 $none; TRAIN $X
----
x=a; x+=b; x+=$x; TRAIN $x; for x in 1 2; do x+=0; TRAIN $x; done; export x+=1; TRAIN $x
----
a=1;b=2;TRAIN $a$b;TRAIN 3;if true;then TRAIN 4;fi;for i in 5 6;do TRAIN $i;done
----
i=0; for x in a b c; do i=$((i + 1)); TRAIN $x $((i % 2)) $(( (i+1) * 3 / 2 )) $((-7/2)) $((${i} - 5)); done
----
s=$SECONDS; t=$((SECONDS - s)); echo "$((t / 60)) minutes"; TRAIN 1 "$t"
----
TRAIN "$(date)" "$(date +%F)_x" "`hostname`" "$#" $$ ~/x --folder=~/x
----
x="$(echo "a $(echo "b")")"; y=`echo \`echo a\``; TRAIN 1
----
while_list="1 2"; done=3; TRAIN $while_list $done; for in in in do; do TRAIN $in; done
----
for i in a; do for j in b; do TRAIN $i $j; done done; { { TRAIN 1; } }; if true; then if true; then TRAIN 2; fi fi
----
TRAIN 1 &&
TRAIN 2 |
tee log
----
TRAIN a;# no "quote
TRAIN 'b' # it's
----
PATH=/more:$PATH; export PYTHONPATH=.:$PYTHONPATH; ulimit -n 100; TRAIN 1
----
TRAIN --lambd 16>log; TRAIN --lambd=16>log; TRAIN < /dev/null
----
if [ "$x" = 1 ]; then echo one; else echo two; fi; x=5; TRAIN $x
"""


@needs_bash
@pytest.mark.parametrize("text", [written(text.strip("\n")) for text in SAME.split("\n----\n")])
def test_read_as_bash_runs_it(bash: Bash, text: str):
    ran, read = bash.calls(text), ours(text)
    if re.search(r" & ?(done|wait|TRAIN)?", text):  # in the background the order is left to chance
        ran, read = sorted(ran), sorted(read)
    assert same(read, ran)


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("TRAIN --lambd 4 && TRAIN --lambd 16", {"defense": 2}),
        ("for l in 0 8 16; do\n if [ $l = 8 ]; then continue; fi\n TRAIN --lambd $l\ndone", {"defense": 2}),
        ("[ train = attack ] && TRAIN --random_seed 16\nTRAIN --random_seed 4", {}),
        ("for s in 1 2 3; do TRAIN --random_seed $s & done; wait", {"seed": 3}),
        ('TRAIN --filename "$(date)" --folder run_$(date +%F)\nTRAIN --folder="$HOME/x" --random_seed 4', {"seed": 2}),
    ],
)
def test_the_grid_has_the_trainings_that_bash_would_run(tmp_path: Path, text: str, axes: dict[str, int]):
    path = tmp_path / "run_exp.sh"
    path.write_text(written(text).replace("TRAIN", f"{TRAIN} --dataset cifar10"))
    assert {name: len(values) for name, values in read_script(path).axes.items()} == axes


def test_what_is_added_to_a_variable_reaches_the_training(tmp_path: Path):
    path = tmp_path / "run_exp.sh"
    noise = "--regularization Gaussian --regularization_strength 0.025"
    path.write_text(f"extra='--lambd 16'\nextra+=' {noise}'\n{TRAIN} --dataset cifar10 $extra\n")
    assert "gaussian:sigma=0.025" in read_script(path).base["defense"]


def test_other_python_scripts_are_named(tmp_path: Path):
    path = tmp_path / "run_exp.sh"
    path.write_text(f"python prepare.py\n{TRAIN} --dataset cifar10\npython tools/train_gan.py --epochs 3\n")
    notes = read_script(path).notes
    assert [note.partition(" is ")[0] for note in notes[-2:]] == ["prepare.py (line 1)", "train_gan.py (line 3)"]


def test_unknown_parts_are_marked():
    (call,) = calls(f'{TRAIN} "$x" a$x $$ "$@" \'$x\'')
    assert call.argv == [f"{SOLID}$x{SOLID}", f"a{LOOSE}$x{LOOSE}", f"{SOLID}$${SOLID}", f"{LOOSE}$@{LOOSE}", "$x"]


names = st.sampled_from(["a", "b", "c"])
values = st.sampled_from(
    ["1", "2", "''", "'x  y'", '"x $a"', "$b", '"$c"', "$a$b", "u$c", "${a}v", "'$a'", "\\$a", "$?"]
)
tests = st.sampled_from(
    ["true", "false", '[ "$a" = 1 ]', '[ "$b" != "$c" ]', '[ -n "$a" ]', "[[ $a == 1 ]]", "! true", "[ ! x = x ]"]
    + ["[ $? -eq 0 ]", f"{TRAIN} test", "{ false; true; }", "{ true; false; }", "false | tee log", "x=$(false)"]
)
simple = st.one_of(
    st.builds("{} {} {}".format, st.just(TRAIN), values, values),
    st.builds("{}{}{}".format, names, st.sampled_from(["=", "+="]), values),
    st.builds("export {}={}".format, names, values),
    st.builds("{}={} {} ${}".format, names, values, st.just(TRAIN), names),
    st.builds("{} {} 2>&1 | tee log".format, st.just(TRAIN), values),
    st.sampled_from(["echo $a", "set -e", "set +e", "set -o pipefail", "exit", "exit 3", "cd .", "wait"]),
    tests,
)


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    block = st.lists(inner, min_size=1, max_size=3).map("; ".join)
    turns = st.tuples(tests, st.sampled_from(["break", "continue"]), block).map("{0[0]} && {0[1]}; {0[2]}".format)
    return st.one_of(
        st.builds("for {} in {} {}; do {}; done".format, names, values, values, st.one_of(block, turns)),
        st.builds("if {}; then {}; fi".format, tests, block),
        st.builds("if {}; then {}; elif {}; then {}; else {}; fi".format, tests, block, tests, block, block),
        st.builds("{{ {}; }}".format, block),
        st.builds("{} {} {}".format, st.one_of(tests, inner), st.sampled_from(["&&", "||"]), inner),
        st.builds("{{ {}; }} | cat".format, block),
    )


scripts = st.lists(st.recursive(simple, compound, max_leaves=8), min_size=1, max_size=5).map("\n".join)


@needs_bash
@settings(max_examples=60, deadline=None)
@given(text=scripts)
def test_any_mixture_is_read_as_bash_runs_it(bash: Bash, text: str):
    text = f"a=1; b='x y'; c=\n{text}\n"
    assert same(ours(text), bash.calls(text))
