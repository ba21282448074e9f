# %% [markdown]
# # Protect a network of your own
#
# You have a classifier written in PyTorch. You want its first layers to run on a device, such as a camera or
# a phone, and the rest on a server, so that no picture has to leave the device. This is called *split
# inference*, or collaborative inference. What leaves the device instead is the output of the last layer that
# runs there. We call it the **wire**. Papers on split learning call it *smashed data*, others the
# intermediate feature.
#
# The wire is computed from the picture, and whoever reads it can try to compute the picture back. In this
# tutorial you measure how well that works on a network of your own, protect the network, and measure again.
# You look at what each step prints, and learn what would be good and what is suspicious.
#
# You need to know PyTorch and nothing about privacy. If you only want the calls, read
# [the page about Python](../python.md).

# %%
import copy
import os

import torch
from torch import nn

import splitveil as sv

ROOT = os.environ.get("SPLITVEIL_TUTORIAL_DATA")  # a folder with CIFAR-10; None: digits
_ = torch.manual_seed(0)

# %% [markdown]
# ## What you have
#
# Images, and what they show. Here these are 1,797 handwritten digits of 16×16 gray pixels, so that every cell
# takes seconds. Pixels are floats between 0 and 1.

# %%
if ROOT is None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    x = nn.functional.interpolate(x, size=16, mode="bilinear")
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x))
    counts, epochs = (1000, 350, 200, 247), 6
else:
    from splitveil.data import load

    images = load("cifar10", root=ROOT)
    x = torch.cat([images.train.images, images.test.images]).float() / 255
    y = torch.cat([images.train.labels, images.test.labels])
    order = torch.cat([torch.randperm(50_000)[:20_000], 50_000 + torch.randperm(10_000)])
    counts, epochs = (20_000, 3000, 2000, 5000), 6

train, own, choose, test = ((x[part], y[part]) for part in order.split(counts))
under_attack = test[0][:100], test[1][:100]

# %% [markdown]
# The images are divided once, and each part has one owner:
#
# | part | who has it | what for |
# |---|---|---|
# | `train` | you | the network learns from it |
# | `own` | the attacker | the attack learns from it: the attacker sends these images through the device |
# | `choose` | you | choices that need an accuracy, further down |
# | `test` | you | the network's accuracy; you make no choice by these images |
# | `under_attack` | nobody but the device | 100 of the test images, which the attacker tries to see |
#
# An attack that has learned from the very images that it reconstructs proves nothing. SplitVeil refuses to
# run it.
#
# The network is an ordinary module. Its stages halve the height and the width of the image, and a layer in
# the middle, `narrow`, has only four channels.


# %%
def stage(inputs, outputs):
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


class Network(nn.Module):
    def __init__(self, colors):
        super().__init__()
        self.stage1 = stage(colors, 16)
        self.stage2 = stage(16, 32)
        self.narrow = nn.Sequential(nn.Conv2d(32, 4, 1), nn.Sigmoid())
        self.stage3 = stage(4, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        z = self.narrow(self.stage2(self.stage1(x)))
        return self.head(self.stage3(z).mean((2, 3)))


def trained():
    torch.manual_seed(0)
    network = Network(x.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(train[0])).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(train[0][batch]), train[1][batch]).backward()
            optimizer.step()
    return network.eval()


network = trained()

# %% [markdown]
# ## Where to cut
#
# `sv.split` cuts a network behind a layer, which you name as `network.named_modules()` does. The part before
# the cut is the *encoder*, which runs on the device, and the part behind it the *tail*, which runs on the
# server. You compare four cuts of the network that you have just trained: how much the device has to store,
# how many numbers it sends, and how well the simplest attacker does.
#
# That attacker is a linear regression from the wire to the pixels. It is learned from the attacker's own
# images in closed form, so it costs a moment, and every serious attacker does at least as well.

# %%
print("cut         wire  numbers  weights on the device  error of the attacker")
linear = {}
for at in ("stage1", "stage2", "narrow", "stage3"):
    model = sv.split(network, at=at, example=x[:1])
    linear[at] = sv.attack(model, sv.Linear(), learn_from=own, invert=under_attack, progress=False)
    weights = sum(weight.numel() for weight in model.encoder.parameters())
    shape = "×".join(map(str, model.wire_shape))
    print(f"{at:8}{shape:>8}{model.numbers_sent:9}{weights:23,}{linear[at].mse:23.4f}")
print(f"always answering the mean image: {linear['narrow'].baseline_mse:.4f}")

# %% [markdown]
# The error is the mean squared error (MSE) over all pixels. Two values frame it:
#
# - **0** would be a perfect copy of the picture.
# - **The error of the mean image**, on the last line, is what an attacker reaches who has not seen the wire
#   at all and answers the average of their own images every time. An attack that is not below it has learned
#   nothing.
#
# So higher is more private, and the mean image is the scale. An early cut is cheap for the device and gives
# nearly everything away. A later cut leaves the attacker more error, but the device has to store and compute
# more. Between `narrow` and `stage3` hardly anything is gained, although much is computed: what does not fit
# through the four channels is lost already. So you take `narrow`. The device sends the fewest numbers, and
# the rest of the network stays on the server. [Where to cut](../cuts.md) compares cuts at equal accuracy,
# which is the fair way.
#
# ## What the undefended wire gives away
#
# Now a better attacker: a *decoder*, a network that learns to turn a wire into a picture. `sv.accuracy` says
# how often the split network is right on the test images, with a 95 % interval.

# %%
undefended = sv.split(network, at="narrow", example=x[:1])
decoder = sv.Decoder(epochs=12, network="conv_normN1C32", batch_size=16, lr=0.003)
before = sv.attack(undefended, decoder, learn_from=own, invert=under_attack)
accuracy = sv.accuracy(undefended, test)
print(f"accuracy {accuracy:.3f}, error of the decoder {before.interval():.4f}")
before

# %% [markdown]
# The first line is what you will compare later. Brackets are 95 % intervals: of the accuracy over the test
# images, of the error over the attacked images. In the second line:
#
# - `mse` is the attacker's error, and `baseline_mse` that of the mean image.
# - `ssim` is the structural similarity, 1 for equal pictures and about 0 for unrelated ones. It follows what
#   people see better than squared error does.
# - `class_mean_mse` is the error of the mean image *of the right class*. The server must learn the class, for
#   that is its task, so an attacker may learn it too. You cannot hope for more privacy than this value while
#   the network works.
#
# Figures hide what a picture shows. The upper row has the originals, the lower row what the decoder made of
# their wires.

# %%
before.plot()

# %% [markdown]
# If you can tell what is in the lower row, so can the attacker. This is the normal state of split networks
# without a defense: that only "features" leave the device protects nobody.
#
# ## Put a defense on the wire
#
# You use two defenses together:
#
# - `Gaussian(0.4)` adds random noise to each number of the wire, drawn anew for each image. It hides what is
#   smaller than the noise. 0.4 is its standard deviation; the numbers here lie between 0 and 1, because the
#   layer ends in a sigmoid.
# - `CEM(16)` acts in training only. It pulls images of one kind together on the wire, so that they differ by
#   less than the noise. The name stands for conditional entropy maximization: of all wires that still tell
#   the class, it prefers those that leave most uncertainty about the image. 16 is the weight of this term of
#   the loss against that of the task.
#
# The network learns with both, because noise that comes after the training costs more accuracy. `sv.fit` is
# the training loop with everything that the defenses need; `sv.OwnLoop` puts them into
# [a loop of your own](../python.md#a-training-loop-of-your-own).

# %%
defenses = [sv.Gaussian(0.4), sv.CEM(16)]
defended = sv.split(copy.deepcopy(network), at="narrow", example=x[:1], defenses=defenses)
history = sv.fit(defended, train, epochs=epochs, batch_size=50, lr=0.05)
for record in history[:: max(1, epochs // 4)]:
    print(f"epoch {record['epoch']}: loss {record['loss']:.2f}, leakage {record['leakage_nats']:.0f}")

# %% [markdown]
# The loss should fall. The last column is an estimate of how much the wire tells about the image, in *nats*
# (1 nat is 1.44 bits). It rises while the network learns what to send, and CEM, which grows stronger towards
# the end, should then hold or lower it. It is there so that you see whether the defense acts at all. It is an
# estimate on training images and [no bound](../bounds.md#what-the-logged-estimate-is-worth), so never quote
# it as your model's privacy. What counts is the attack.

# %%
after = sv.attack(defended, decoder, learn_from=own, invert=under_attack)
accuracy_after = sv.accuracy(defended, test)
ratio = after.ratio(before)
print(f"accuracy {accuracy:.3f} -> {accuracy_after:.3f}")
print(f"error of the decoder {before.interval():.4f} -> {after.interval():.4f}")
print(f"that is {ratio:.2f} times as much")

# %%
after.plot()

# %% [markdown]
# `ratio` compares the two attacks image by image, so its interval is narrower than the two intervals suggest.
# An interval that contains 1 would mean that no difference is shown.
#
# Is this good? Ask three questions:
#
# 1. **What did it cost?** Compare the accuracies. If the second one is lower, you paid for the privacy, and a
#    comparison with another defense is fair only [at equal accuracy](../bench.md#how-figures-are-made).
# 2. **How far is the error from the best that is possible?** That is the class mean from above:

# %%
from splitveil.statistics.ceiling import share_of_ceiling

share = share_of_ceiling(after.mse, before.mse, after.class_mean_mse)
print(f"{share:.0%} of the way from the undefended wire to one that tells the class only")

# %% [markdown]
# 3. **What do you see?** A blurred picture may still show whose handwriting it is. Squared error rises long
#    before the content is gone.
#
# ## Read the flags
#
# A high error can have two reasons: a good defense, or a bad attack. SplitVeil looks for signs of the second
# and calls them *flags*. Here is a decoder that stops after one epoch:

# %%
once = sv.Decoder(epochs=1, network="conv_normN1C32")
hasty = sv.attack(defended, once, learn_from=own, invert=under_attack)
print(f"error {hasty.mse:.4f}")
for flag in hasty.flags:
    print("flag:", flag)

# %% [markdown]
# Its error is much higher than that of the decoder before, on the same wires. Nothing about the wires has
# changed. Whoever published this figure would praise a defense for the laziness of their own attack. Look at
# the flags of the attack that you believed:

# %%
print(after.flags or "no flags")

# %% [markdown]
# No flag means that no sign was found, and not that the attack is the best that exists. If there is one, it
# says what to do: train the decoder longer, or give it more images. [All flags](../attacks.md#flags) are
# listed with their reasons, and [the next tutorial](attack_a_model.py) attacks with more than one attack.
#
# ## Protect a network that is trained already
#
# Perhaps the network is on devices already and you cannot train its encoder again. `sv.harden` leaves the
# encoder as it is. It measures which directions of the wire the task needs, and puts noise where it needs
# them least. It adds as much noise as the loss of accuracy that you choose allows: here at most two points.
#
# Give it images of your own to measure that loss (`validate=`), which the network has not learned from.
# Without them it takes a tenth of `train`, and a trained network is nearly perfect on these images even with
# much noise.

# %%
hardened = sv.harden(undefended, train, validate=choose, max_drop=2.0)
print(hardened)
hardened.plot()

# %% [markdown]
# The dots are amounts of noise that were tried, each with a tail that was trained anew. To the right lies
# more accuracy, further up more error for a linear attacker. The star was chosen: as far up as your two
# points allow. The dotted line is the mean image, above which no attacker can be pushed.
#
# The figure is about linear attackers only. So attack the hardened model as you attacked the others:

# %%
quiet = sv.attack(hardened.model, decoder, learn_from=own, invert=under_attack)
accuracy_quiet = sv.accuracy(hardened.model, test)
print(f"accuracy {accuracy:.3f} -> {accuracy_quiet:.3f}")
print(f"error {quiet.ratio(before):.2f} times that of the undefended one")
quiet.plot()

# %% [markdown]
# The accuracy on the test images may have fallen by more than two points. Two points were allowed on the
# images of `choose`, and a few hundred images tell an accuracy within a few points only. Give more of them
# where you have them.
#
# ## What you cannot conclude yet
#
# - **You do not know which of the two defenses did it.** Train a third model with `Gaussian(0.4)` alone. What
#   CEM adds to noise [depends on the network](../cem.md) and can be nothing.
# - **One training is no verdict.** The same settings with another seed give another accuracy and another
#   error. Train three or more of each before you say that one defense is better:
#   [how to compare](../attacks.md#comparing).
# - **One attack is no verdict** either. `sv.evaluate(defended, "quick-v4", ...)` makes several and takes a
#   few minutes.
# - **Noise protects one wire.** Whoever sees several wires of one image averages the noise away. `observed=4`
#   gives the attacker four.
#
# ## The same on CIFAR-10
#
# <!-- cifar10 -->
#
# Both defenses leave the decoder more than twice the error here, and cost little of an accuracy that is low
# from the start: the network is small and was trained for six epochs. What a network that is trained to the
# end would pay, these figures do not say.
#
# ## Where to go from here
#
# - [Attack a model that someone gave you](attack_a_model.py): more attacks, and which of them to believe.
# - [Read a privacy card](read_a_card.py): all figures of a model on one page, and a decision.
# - [All defenses](../defenses.md), and [what CEM does](../cem.md).
# - [Save and load](../python.md#save-and-load) what you made here.
