#!/bin/sh
# torch 2.14.1: torch.export takes a network with a part called "graph" or "code", and what it gives cannot be run.
#
# Both are names of attributes of torch.fx.GraphModule, into which the exported program is unpacked: a part of that name
# is hidden behind them. torch.export.export says nothing; ExportedProgram.module() and run_decompositions(), which
# torch.onnx.export and the lowering for phones call, end in a RuntimeError that names a parameter and not the reason.
# Networks of graphs and autoencoders do call a part so.
#
# Input: a module whose only part is a linear layer, under the names "inner", "graph" and "code".
#
# Seen with Python 3.11:
#   inner: exported, runs
#   graph: exported, RuntimeError: Node graph_weight target graph.weight references nonexistent attribute weight of graph
#   code: exported, RuntimeError: Node code_weight target code.weight references nonexistent attribute weight of code
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import sys

import torch
from torch import nn


class Holder(nn.Module):
    def __init__(self, name):
        super().__init__()
        setattr(self, name, nn.Linear(3, 2))
        self.part = name

    def forward(self, x):
        return getattr(self, self.part)(x)


fails = {}
for name in ("inner", "graph", "code"):
    program = torch.export.export(Holder(name).eval(), (torch.rand(1, 3),))
    try:
        program.module()(torch.rand(1, 3))
        said = "runs"
    except RuntimeError as error:
        said = f"RuntimeError: {str(error).splitlines()[0]}"
    print(f"{name}: exported, {said}")
    fails[name] = said != "runs"
sys.exit(0 if fails == {"inner": False, "graph": True, "code": True} else "the names now fare otherwise")
END
