#!/bin/sh
# torch 2.14.1, a machine without a GPU: after torch.export a process can no longer fork workers that learn.
#
# On such a machine backward() starts no threads, and a forked process may call it. If torch.export.export ran before the
# first backward() of a process (or a FakeTensorMode was entered, which export does), that backward() starts autograd's
# threads of devices, and backward() in every process that is forked later raises a RuntimeError. The order decides: after
# a first backward(), export does no harm. The message speaks of fork and threads, and not of export.
#
# Input: one backward() in a process and one in a fork of it, after nothing, after an export, and with an export between a
# first backward() and both.
#
# Seen with Python 3.11 on Linux, two cores:
#   nothing: threads after backward() 1, fork learns
#   export first: threads after backward() 9, fork raises RuntimeError: Unable to handle autograd's threading in
#     combination with fork-based multiprocessing
#   export later: threads after backward() 1, fork learns
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy==2.4.6
cd "$folder"
cat > order.py <<'END'
import os
import sys

import torch


def learn():
    torch.rand(3, requires_grad=True).sum().backward()


def export():
    torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))


case = sys.argv[1]
if case == "export later":
    learn()
if case != "nothing":
    export()
learn()
threads = len(os.listdir("/proc/self/task"))
child = os.fork()
if not child:
    try:
        learn()
    except RuntimeError as error:
        print("RuntimeError:", str(error).partition(".")[0], flush=True)
        os._exit(1)
    os._exit(0)
failed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(f"{case}: threads after backward() {threads}, fork {'raises' if failed else 'learns'}")
sys.exit(failed)
END
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
"$folder/venv/bin/python" order.py "nothing"
"$folder/venv/bin/python" order.py "export later"
if "$folder/venv/bin/python" order.py "export first"; then
  echo "changed: a process that has exported can fork workers that learn"
  exit 1
fi
