# %% [markdown]
# # Attack a model that someone gave you
#
# Somebody hands you a network that is split between a device and a server. They say that nobody can rebuild
# the picture from what the device sends, and they have a figure to show for it. You want to know whether that
# is true before your own pictures go through it.
#
# In this tutorial you load such a model, attack it, find out why their figure looks so good, and learn which
# figure to believe. What the device sends is called the **wire** here (*smashed data* in papers on split
# learning). An *attack* estimates the picture from the wire; it is also called model inversion or feature
# inversion.

# %%
import os
import tempfile
from pathlib import Path

import torch
from torch import nn

import splitveil as sv

ROOT = os.environ.get("SPLITVEIL_TUTORIAL_DATA")  # a folder with CIFAR-10; None: digits
folder = Path(tempfile.mkdtemp())
_ = torch.manual_seed(0)

# %% [markdown]
# ## What they gave you
#
# You get two files of weights, `encoder.pt` for the device and `tail.pt` for the server, a few lines of
# Python that build the two halves, and a letter: *The device adds Gaussian noise of standard deviation 0.15.
# We trained a decoder against it, and it failed.*
#
# So that you can run this page, the next two cells play the other party. Pretend that you have not seen them.

# %%
if ROOT is None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    x = nn.functional.interpolate(x, size=16, mode="bilinear")
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x))
    counts, epochs = (900, 350, 547), 6
else:
    from splitveil.data import load

    images = load("cifar10", root=ROOT)
    x = torch.cat([images.train.images, images.test.images]).float() / 255
    y = torch.cat([images.train.labels, images.test.labels])
    order = torch.cat([torch.randperm(50_000)[:20_000], 50_000 + torch.randperm(10_000)])
    counts, epochs = (20_000, 3000, 7000), 5

theirs, own, test = ((x[part], y[part]) for part in order.split(counts))
under_attack = test[0][:100], test[1][:100]


# %%
def make_encoder(colors):
    return nn.Sequential(
        nn.Conv2d(colors, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 8, 3, stride=2, padding=1), nn.Sigmoid(),
    )  # fmt: skip


def make_tail():
    return nn.Sequential(
        nn.Conv2d(8, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


torch.manual_seed(0)
halves = make_encoder(x.shape[1]), make_tail()
trained = sv.SplitModel(*halves, defense=[sv.Gaussian(0.15)], example=x[:1])
sv.fit(trained, theirs, epochs=epochs, batch_size=50, lr=0.05, progress=False)
torch.save(trained.encoder.state_dict(), folder / "encoder.pt")
torch.save(trained.tail.state_dict(), folder / "tail.pt")

# %% [markdown]
# ## Load it, and check that you loaded what they have
#
# A checkpoint of PyTorch can hold code that runs while it is read. `weights_only=True` reads tensors and
# nothing else, so use it for every file that is not your own.
#
# `sv.SplitModel` puts the halves together, with the noise that the letter mentions. You assume that the
# attacker knows the encoder and the kind of noise: the device can be bought and taken apart, so a defense
# must hold without secrets.

# %%
encoder, tail = make_encoder(x.shape[1]), make_tail()
encoder.load_state_dict(torch.load(folder / "encoder.pt", weights_only=True))
tail.load_state_dict(torch.load(folder / "tail.pt", weights_only=True))
model = sv.SplitModel(encoder, tail, defense=[sv.Gaussian(0.15)], example=x[:1]).eval()
accuracy = sv.accuracy(model, test)
print(f"wire {model.wire_shape}, {model.numbers_sent} numbers; accuracy {accuracy:.3f}")

# %% [markdown]
# Compare the accuracy with what they told you. If it is much lower, you did not load what they have: the
# pixels may be normalized in another way (`mean=` and `std=` of `SplitModel`), or a layer may be missing. An
# attack on the wrong model says nothing, and its failure looks like privacy.
#
# ## Repeat what they did
#
# Their attack was a *decoder*: a network that learns from pairs of wire and picture to answer the picture.
# You need pictures of the same kind of your own, and the right to send them through the device. These are in
# `own`. The images in `under_attack` are used neither to train the network nor to train the attack.

# %%
sides = {"learn_from": own, "invert": under_attack}
hasty = sv.attack(model, sv.Decoder(epochs=2, network="conv_normN1C32"), **sides)
hasty

# %% [markdown]
# `mse` is the mean squared error over the pixels, which lie between 0 and 1. It means nothing without
# `baseline_mse` beside it, the error of an attacker who sees no wire at all and always answers the *mean
# image* of their own pictures. Here the decoder is far above it. It has learned nothing from the wire, and
# that is what the letter calls a failure.
#
# But the *flag* below the figures says what else that can mean. A flag is a reason why a figure should not be
# trusted: an attack may fail because the wire is private, or because the attack is bad. Two epochs over a few
# hundred pictures are a handful of steps.
#
# ## Train the decoder longer, and add other attacks
#
# A decoder answers with a compromise between all pictures that fit. Other attacks work differently, and which
# one is strongest depends on the defense. So you train the decoder for longer, and make three further attacks
# on the same wires with `sv.evaluate`:
#
# - `Linear`, a regression from the wire to the pixels in closed form. Every serious attack must beat it.
# - `Nearest` answers with the one of the attacker's own images whose wire is nearest. Its squared error is
#   bad, but its answer is a real picture, and often of the right kind.
# - `Refine` uses the encoder's weights: it takes the answer of the linear attack and changes it until its
#   wire is the one that was overheard.
#
# The name `"quick-v4"` stands for these four in their full length and a fifth, `Residual`, a network that
# learns what to add to the linear answer. That takes minutes. *Suites* like this one are frozen, so that you
# can compare your figures with those of others.

# %%
attacks = [
    sv.Linear(),
    sv.Nearest(),
    sv.Decoder(epochs=15, network="conv_normN1C32", batch_size=16, lr=0.003),
    sv.Refine(start="linear", steps=40),
]
report = sv.evaluate(model, attacks, **sides)
patient = report.results["decoder"]
print(f"decoder: 2 epochs {hasty.interval():.4f}, 15 epochs {patient.interval():.4f}")
report

# %% [markdown]
# First compare the two decoders. They saw the same wires, and the second one has a much lower error. Nothing
# about the model has changed in between: the figure in the letter told how long somebody had trained a
# decoder, and nothing else.
#
# How would you know that 15 epochs are enough? No flag is raised any more, and you can train until the error
# on images that the decoder has not learned from no longer falls (`sv.Decoder(steps=2500)` does that).
#
# The first line of the report has the figure to quote: the error of the *best attacker*. That is the attack
# which did best on images of the attacker's own that were held out, so a real attacker could have chosen it.
# Two other choices would be wrong:
#
# - the lowest error of the table, chosen by looking at the attacked images, and
# - the lowest error for each single image, which is `worst_case_mse`. Nobody can make that choice without
#   having the image. It is printed because no attack of the list can be below it.

# %%
print(f"best attacker {report.best_attacker}: {report.mse:.4f}")
print(f"worst case: {report.worst_case_mse:.4f}")
print(f"mean image {patient.baseline_mse:.4f}, of the right class {patient.class_mean_mse:.4f}")

# %% [markdown]
# Read the figure on the scale of the last line. The server has to learn the class, so no working model can
# leave much more error than the mean image of the right class. If the best attacker comes near it, the wire
# tells little but the class. Far below it, the wire shows the picture.
#
# ## Look at it

# %%
report.plot()

# %% [markdown]
# The upper row has the originals. Each further row has the name of its attack and its error on the left. Look
# for what the figures do not say: an answer with a larger error may be sharper, and you may recognize more in
# it.
#
# ## Which of these pictures was it?
#
# Perhaps the attacker does not want to rebuild the picture at all, but has a hundred photos and wants to know
# which of them was sent. *Linkage* measures that.

# %%
for estimate in sv.bound(model, "linkage", test):
    if estimate.quantity == "success":
        print(f"{estimate.about}: found in {estimate.value:.0%}")

# %% [markdown]
# `chance` is how often guessing would be right. If the share is near 100 %, the wire identifies the picture,
# even where no attack can draw it. This is a lower bound: it is what one attacker does, and a better one may
# do more.
#
# ## What else can go wrong
#
# **The same picture is sent twice.** The noise is drawn anew for each, so the average of two wires of one
# picture has less noise: its standard deviation is σ/√2 instead of σ. With `observed=8` the attacker has
# eight wires of each picture, as from a video or from a request that is sent again.

# %%
eight, once = sv.attack(model, sv.Linear(), observed=8, **sides), report.results["linear"]
print(f"one wire {once.mse:.4f}, eight {eight.mse:.4f}: {eight.ratio(once):.2f} times the error")

# %% [markdown]
# An interval below 1 shows that the repetition helps the attacker. Ask whether the device ever sends one
# picture twice.
#
# **The noise is not what they say.** Here is a device that draws its noise from a fixed seed, because of a
# mistake in one line:

# %%
from splitveil.defenses.base import Defense


class Forgetful(Defense):
    """Noise that is the same for every request."""

    def on_wire(self, z, rng):
        return z + 0.15 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))

    def noise_variance(self):
        return 0.15**2


broken = sv.SplitModel(encoder, tail, defense=[Forgetful()], example=x[:1]).eval()
for flag in sv.attack(broken, sv.Linear(), **sides).flags:
    print("flag:", flag)

# %% [markdown]
# SplitVeil sends some images twice before every attack and compares: that is the first flag. The second one
# says that the noise depends on an image's place in its batch, as it does here, since each place has its own
# fixed noise. You should ask for the code that draws the noise, or measure it: noise that an attacker can
# predict is no noise.
#
# ## What to answer them
#
# Write down the error of the best attacker with its interval, the mean image and the class mean beside it,
# how many images the attacker had and how many were attacked, the suite, and the flags. `sv.save(report,
# "runs/theirs")` keeps all of it. And say what you did not try: a stronger attack may exist.
#
# ## If you have a checkpoint of the published code
#
# Models of the CEM paper's code, and of ResSFL before it, come as folders of `checkpoint_f_best.tar`,
# `checkpoint_cloud_best.tar` and `checkpoint_classifier_best.tar`. You need none of the above to load them:
#
# ```bash
# splitveil legacy saves/cifar10/theirs --out runs/theirs --root data/cifar10
# splitveil attack runs/theirs --suite quick-v4
# ```
#
# The first command reads the settings off the folder's name and the layers off the tensors, and says in notes
# where the published code did something other than it said: [from the published code](../legacy.md).
#
# ## The same on CIFAR-10
#
# <!-- cifar10 -->
#
# With 3,000 images two epochs are not a handful of steps any more: the short decoder is better than the mean
# image, and still leaves four times the error of the longer one. A failure is easier to see than half a
# success.
#
# ## Where to go from here
#
# - [All attacks and flags](../attacks.md), and what the flags cannot see.
# - [Bounds](../bounds.md): what no attacker can do, and why that is seldom much.
# - [Protect a network of your own](protect_my_network.py), and [read a privacy card](read_a_card.py), which
#   puts everything from this page onto one sheet.
