"""Shell that is not read is refused with the file, the line, the construct and what to do; nothing is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from splitveil.errors import UserError
from splitveil.legacy import shell
from splitveil.legacy.command import run

REFUSED = [
    ("declare -i x=1+1; TRAIN $x", "line 1: 'declare -i x=1+1' is not read; write NAME=VALUE alone"),
    ("TRAIN\ntypeset x=1", "line 2: 'typeset x=1' is not read"),
    ("local x=1", "'local x=1' is not read"),
    ("readonly x=1", "'readonly x=1' is not read"),
    ("let x=1", "'let x=1' is not read; write NAME=VALUE for what it sets"),
    ("read x", "'read x' is not read"),
    ("set -- 1 2; TRAIN $1", "'set -- 1 2' is not read; only set -e, -u, -x, -v and -o pipefail are"),
    ("shift; TRAIN", "'shift' is not read"),
    ("getopts ab x", "'getopts ab x' is not read"),
    ('eval "TRAIN 1"', "is not read; write the call without it"),
    ("exec TRAIN 1", "'exec python main_MIA.py 1' is not read; write the call without it"),
    ("echo 1 2 | xargs -n1 TRAIN", "'xargs -n1 python main_MIA.py' is not read"),
    ("seq 3 | parallel TRAIN", "is not read; write the call without it"),
    ("trap 'TRAIN x' EXIT", "is not read; delete the line"),
    ("source other.sh", "'source other.sh' is not read; write what that file sets in its place"),
    (". ./other.sh", "'. ./other.sh' is not read"),
    ("bash other.sh", "'bash other.sh' is not read; give that script to splitveil legacy by itself"),
    ("return", "'return' is not read; write exit"),
    ("printf -v x 5", "'printf -v x 5' is not read; write NAME=VALUE for what -v sets"),
    ("alias p=python; p main_MIA.py", "'alias p=python' is not read; delete the line if the trainings do not need it"),
    ("find . -exec TRAIN {} \\;", "is not read; write python main_MIA.py with its options"),
    ("x = 5; TRAIN $x", "'x = 5' is not read"),
    ("./main_MIA.py 1", "'./main_MIA.py 1' is not read; write python main_MIA.py"),
    ("python $script --lambd 4", "'python $script --lambd 4' is not read; write python main_MIA.py"),
    ("$PY main_MIA.py 4", "'$PY main_MIA.py 4' is not read; write the command that $PY stands for"),
    ('c="TRAIN"; "$c" 4', "is not read"),
    ("python -m torch.distributed.launch main_MIA.py", "is not read; write python main_MIA.py with its options"),
    ('python -c "x" main_MIA.py', "is not read; write python main_MIA.py with its options"),
    ("python < main_MIA.py", "< main_MIA.py' is not read; delete it"),
    ("cat s.sh | python -", "'python -' is not read"),
    ("nohup bash run.sh", "'nohup bash run.sh' is not read; write python main_MIA.py behind it"),
    ("(TRAIN 1)", "'(' is not read; write what stands in parentheses without them"),
    ("((i=3)); TRAIN $i", "'((' is not read; write NAME=VALUE"),
    ("x=$(TRAIN 1)", "'python main_MIA.py 1' is not read; write a call inside of $(...) as a line of its own"),
    ("x=`TRAIN 1`", "write a call inside of $(...) as a line of its own"),
    ("tee >(TRAIN 1)", "write a call inside of $(...) as a line of its own"),
    ("TRAIN --lambd $((2**3))", "'$((2**3))' is not read; write the value"),
    ("i=1; TRAIN $((i++)); TRAIN $i", "'$((i++))' is not read"),
    ("echo $((i=3)); TRAIN $i", "'$((i=3))' is not read"),
    ("x=08; TRAIN $((x+1))", "'$((x+1))' is not read"),
    ("TRAIN $((1_0))", "'$((1_0))' is not read"),
    ("TRAIN $((1/0))", "'$((1/0))' is not read"),
    ("a[0]=1; TRAIN $a", "'a[0]=1' is not read; write a variable for each value instead of an array"),
    ("echo a=(1)", "'a=(1)' is not read; write a variable for each value"),
    ("a=(1; 2)", "is not read; write the array's words alone"),
    ("f() { TRAIN 1; }; f", "'f()' is not read; write what the function does in the place of its calls"),
    ("function f { TRAIN 1; }", "'function' is not read"),
    ("case x in x) TRAIN 1;; esac", "'case' is not read; keep only the branch that counts"),
    ("until false; do TRAIN; done", "'until' is not read; write the turns as a for loop over a list"),
    ("select x in a b; do TRAIN; done", "'select' is not read"),
    ("coproc TRAIN", "'coproc' is not read"),
    ("for ((i=0;i<3;i++)); do TRAIN; done", "is no loop over a list; expected for X in A B C; do"),
    ("for x; do TRAIN; done", "is no loop over a list; expected for X in A B C; do"),
    ("for i in 1 2 do TRAIN; done", "is no loop over a list; expected for X in A B C; do"),
    ("for i in {1..3}; do TRAIN; done", "the list {1..3} is not known without a shell"),
    ("for i in *.yaml; do TRAIN; done", "the list *.yaml is not known without a shell"),
    ("cat <<EOF\nTRAIN\nEOF", "'<<' is not read; write that file beforehand, or delete the line"),
    ("TRAIN <<< yes", "'<<<' is not read"),
    ("TRAIN > $log", "'> $log' is not read; it may name no file or several"),
    ('TRAIN > "$log"', '> "$log"\' is not read; it may name no file or several'),
    ("[[ -x ]] && TRAIN", "'[[ -x ]]' is not read; write one comparison for each [[ ]]"),
    ("[[ -n = x ]] && TRAIN", "'[[ -n = x ]]' is not read"),
    ('x="a b"; TRAIN > $x', "'> $x' is not read"),
    ("TRAIN 2>&log", "'2>&log' is not read; write 2>&1"),
    ("TRAIN {fd}> log", "'{fd}>' is not read; redirect to a file"),
    ("TRAIN a<(ls)", "put a space before it"),
    ("TRAIN ${x:=5}", "'${x:=5}' is not read; write the value"),
    ("TRAIN ${x?}", "'${x?}' is not read"),
    ('TRAIN ${x:-"a b"}', "write the value without quotes inside of ${...}"),
    ("TRAIN ${x:-a", "a ${ is never closed"),
    ("TRAIN $'a'", "'$'a'' is not read; write the value"),
    ("x=$(date", "a command is expected before the end of the line"),
    ("a=(1", "a ( is never closed"),
    ("x=`date", "a ` is never closed"),
    ("TRAIN 1 \\", "is never closed; the script is cut off"),
    ("IFS=,; TRAIN", "'IFS=' is not read; delete it"),
    ("PATH=/x; TRAIN", "'PATH=' is not read; keep $PATH in it"),
    ("export 2=3", "'export 2=3' is not read; write export NAME=VALUE"),
    ("unset a[0]", "'unset a[0]' is not read; write unset NAME"),
    ("wait -n", "'wait -n' is not read; write wait alone"),
    ("x=1 exit", "'x=1 exit' is not read; write exit alone"),
    ("exit now", "'exit now' is not read; write exit alone"),
    ("for i in 1; do continue $i; done; break", "'break' is not read; it stands in no loop"),
    ("for i in 1; do break now; done", "'break now' is not read; write break alone"),
    ("TRAIN &; TRAIN", "a command is expected before ';'; check the script with bash -n"),
    ("TRAIN && && TRAIN", "a command is expected before '&&'"),
    ("if true; then fi", "'fi' without its for or if"),
    ("if [ a = a ]; fi", "'if [ a = a ]' has no then"),
    ("{ TRAIN", "this { has no }; the script is cut off"),
    ("[[ a = a", "this [[ has no ]]; write it on one line"),
    ("[ a = a", "'[ a = a' is not read; close it with ]"),
    ("[[ a == b || c == c ]] && TRAIN", "is not read; write one comparison for each [[ ]]"),
    ("[[ x -gt 2 ]] && TRAIN", "'[[ x -gt 2 ]]' is not read; write whole numbers"),
    ("[ -d there ] && TRAIN", "'[ -d there ] &&' cannot be decided without a shell; keep only the branch that counts"),
    ("nvidia-smi && TRAIN", "'nvidia-smi &&' cannot be decided without a shell"),
    ("cd there run.sh && TRAIN", "'cd there run.sh &&' cannot be decided without a shell"),
    ("grep -q x log || exit 1; TRAIN", "'grep -q x log ||' cannot be decided without a shell"),
    ("if [ -d x ]; then exit 1; fi; TRAIN", "'if [ -d x ]' cannot be decided without a shell"),
    ("for i in 1 2; do [ -d $i ] || continue; TRAIN; done", "'[ -d $i ] ||' cannot be decided without a shell"),
    ("if [ -d x ]; then set -e; fi; TRAIN", "'if [ -d x ]' cannot be decided without a shell"),
    ('if [ "$1" = attack ]; then TRAIN; fi', "cannot be decided without a shell"),
    ("if [[ abc == a* ]]; then TRAIN; fi", "cannot be decided without a shell"),
    ("if [ a = a -a b = b ]; then TRAIN; fi", "cannot be decided without a shell"),
    ("set -e\nls data\nTRAIN", "line 2: 'ls data' may fail, and 'set -e' would end the script there"),
    ("set -e; [ -d x ]; TRAIN", "'[ -d x ]' may fail, and 'set -e' would end the script there"),
    ("set -u; TRAIN $x", "$x is not set in the script, where 'set -u' ends it; set it, or delete 'set -u'"),
    ("#!/bin/zsh\nTRAIN", "line 1: '#!/bin/zsh' is not read; expected a script for bash"),
    ("#!/usr/bin/env fish\nTRAIN", "expected a script for bash"),
    ("x=1\r\nTRAIN", "line 1: ends in a carriage return, as on Windows"),
    ("x=\1\nTRAIN", "line 1: a SOH character is no text; delete it"),
    ("x=a" + "; x=$x$x" * 20, "x grows beyond 100000 characters; shorten it"),
    ("{ " * 50 + "TRAIN" + "; }" * 50, "more than 40 levels are nested; write the calls out"),
    ("x=4; if [ -d there ]; then x=8; fi; TRAIN --lambd $x", "--lambd takes its value from $x, which is not known"),
    ("[ -d there ] && x=8; TRAIN --lambd $x", "--lambd takes its value from $x, which is not known"),
    ("x=1; x=(2 3); TRAIN --lambd $x", "--lambd takes its value from (2 3), which is not known"),
    ("x=4; { x=8; } | cat; y=$x; unset y; TRAIN --lambd $y", "--lambd takes its value from $y, which is not known"),
    ("lambd=${1:-16}; TRAIN --lambd $lambd", "--lambd takes its value from ${1:-16}, which is not known"),
    ("extra+=' --lambd 4'; TRAIN $extra", "$extra is not known without a shell; write the options"),
    ("TRAIN --dataset cifar10 $extra", "--dataset takes its value from $extra, which is not known"),
    ("TRAIN --filename x $extra", "$extra is not known without a shell; write the options that it stands for"),
    ('TRAIN --filename x "$extra"', "$extra is not known without a shell; write the options that it stands for"),
    ("TRAIN --filename x$extra", "--filename takes its value from x$extra, which may be several words"),
    ("TRAIN --filename=$(date)", "which may be several words; write it, or put it in quotes"),
    ('TRAIN --filename "$@"', "which may be several words"),
    ('for x in "$y"; do TRAIN --folder $x; done', "which may be several words; write it, or put it in quotes"),
    ("TRAIN --filename *", "--filename takes its value from *, which may be several words"),
    ("TRAIN --lambd {0,16}", "--lambd takes its value from {0,16}, which is not known"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_other_shell_is_refused_with_file_line_construct_and_advice(tmp_path: Path, text: str, message: str):
    path = tmp_path / "run_exp.sh"
    path.write_bytes(re.sub(r"\bTRAIN\b", "python main_MIA.py", text).encode())
    with pytest.raises(UserError) as caught:
        run([str(path), "--out", str(tmp_path / "out.yaml")])
    assert re.match(rf"{re.escape(str(path))}, line \d+: ", str(caught.value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.yaml").exists()


def test_a_script_that_would_never_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shell, "MAX_COMMANDS", 100)
    with pytest.raises(UserError, match="line 2: more than 100 commands would run; shorten the lists"):
        shell.calls("for a in 1 2 3 4 5; do\n" + "true; " * 30 + "done")
