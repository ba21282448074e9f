#!/bin/sh
# torch-pruning 1.6.1: where channels change places on their way, the next layer loses the weights of other channels.
#
# A dependency graph tells the library which input channels of the next layer belong to the output channels that go. It
# follows concatenation, splits and a plain flatten(), but takes operations that reorder for ones that change nothing: a
# channel shuffle (ShuffleNet), a flip, or a flatten() with the channels last, as networks from TensorFlow have it. As
# the shapes fit, the pruned network runs. It has dropped weights that were in use and pairs others with wrong inputs.
# What looks like the price of pruning, and is partly trained away afterwards, is damage.
#
# Input: a convolution of 8 channels, the step, then a layer. Channels 0 and 4 have no weight and no bias, so are 0
# throughout: to remove them must not change the output. (Of the shuffle's two groups each loses one.)
#
# Seen with Python 3.11, torch 2.14.1 (the largest change of an output; by hand: where the right weights are removed):
#   flatten: 0.000, by hand 0.000 (standard deviation of the outputs 0.27)
#   flatten, channels last: 0.761, by hand 0.000 (standard deviation of the outputs 0.28)
#   shuffle: 1.002, by hand 0.000 (standard deviation of the outputs 0.26)
#   flip: 1.337, by hand 0.000 (standard deviation of the outputs 0.28)
#
# Exits with 0 while this is so, with 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 torch-pruning==1.6.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'END'
import copy
import sys

import torch
import torch_pruning as tp
from torch import nn


class Reorder(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(x)


def network(how, flat):
    last = nn.Linear(8 * 36, 5) if flat else nn.Conv2d(8, 5, 3)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Reorder(how), last).eval()


def rows(how, gone, flat):
    """Return the inputs of the last layer that the channels `gone` do not reach."""
    marks = torch.zeros(1, 8, 6, 6)
    marks[:, gone] = 1
    marks = how(marks)
    return (marks.flatten() if flat else marks[0, :, 0, 0]) == 0


steps = {
    "flatten": (lambda x: x.flatten(1), True),
    "flatten, channels last": (lambda x: x.permute(0, 2, 3, 1).flatten(1), True),
    "shuffle": (nn.ChannelShuffle(2), False),
    "flip": (lambda x: x.flip(1), False),
}
gone, kept, found = [0, 4], [1, 2, 3, 5, 6, 7], {}
for name, (how, flat) in steps.items():
    torch.manual_seed(0)
    x, net = torch.randn(16, 3, 6, 6), network(how, flat)
    with torch.no_grad():
        net[0].weight[gone] = net[0].bias[gone] = 0
        before, by_hand = net(x), copy.deepcopy(net)
    graph = tp.DependencyGraph().build_dependency(net, x[:1])
    graph.get_pruning_group(net[0], tp.prune_conv_out_channels, gone).prune()
    with torch.no_grad():
        by_hand[0].weight, by_hand[0].bias = nn.Parameter(by_hand[0].weight[kept]), nn.Parameter(by_hand[0].bias[kept])
        by_hand[2].weight = nn.Parameter(by_hand[2].weight[:, rows(how, gone, flat)])
        found[name] = [float((after(x) - before).abs().max()) for after in (net, by_hand)]
    library, hand = found[name]
    print(f"{name}: {library:.3f}, by hand {hand:.3f} (standard deviation of the outputs {float(before.std()):.2f})")
libraries, hands = zip(*found.values())
sys.exit(0 if max(hands) < 1e-5 and libraries[0] < 1e-5 and min(libraries[1:]) > 0.1 else "it now follows the channels")
END
