# %% [markdown]
# # Read a privacy card and decide
#
# You are responsible for a model that runs half on devices and half on a server, and somebody asks: may it
# ship? You want an answer on one page that a colleague can check, and you want your pipeline to stop where
# the answer is no.
#
# `splitveil audit` makes that page. It attacks the model, bounds what it gives away, measures what the device
# pays, and writes the *privacy card*. In this tutorial you make a small one, read it line by line, and
# decide. What the device sends is called the **wire**; the *attacker* is whoever reads the wire, be it the
# server itself.
#
# Commands begin with `!` here, as in every notebook. In a terminal you leave the `!` out.

# %%
import json
import os
import tempfile
from pathlib import Path

os.environ |= {"TTY_COMPATIBLE": "0", "COLUMNS": "100"}  # text, no bars of progress
os.chdir(tempfile.mkdtemp())  # everything below is written into a folder of its own

# %% [markdown]
# ## Two runs
#
# A *run* is a folder with a trained model and everything about it. You need two: the model that should ship,
# and the same model without a defense, trained with the same seed. Without the second you could not say what
# the defense changed.
#
# The images are handwritten digits of 16×16 pixels, written into folders by class, as you would have your
# own.

# %%
from PIL import Image
from sklearn.datasets import load_digits

for place, (image, digit) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
    folder = Path("digits", str(digit))
    folder.mkdir(parents=True, exist_ok=True)
    small = Image.fromarray((image.reshape(8, 8) * 255 / 16).astype("uint8"))
    small.resize((16, 16), Image.Resampling.BILINEAR).save(folder / f"{place:04}.png")

# %%
# !splitveil train --data folder:digits --train-size 600 --arch resnet20_sgm --cut 3 --bottleneck 4 \
#     --recipe fast --epochs 6 --batch-size 50 --lr 0.05 --protocol train_time \
#     --out runs/plain

# %%
# !splitveil train --data folder:digits --train-size 600 --arch resnet20_sgm --cut 3 --bottleneck 4 \
#     --recipe fast --epochs 6 --batch-size 50 --lr 0.05 --protocol train_time \
#     --defense gaussian:0.4 --defense cem:8 --out runs/defended

# %% [markdown]
# `--cut 3` puts three blocks of the network on the device, and `--bottleneck 4` lets four channels cross the
# wire. The second run adds Gaussian noise of standard deviation 0.4 to the wire and trains with CEM, which
# pulls images of one kind together so that they differ by less than the noise ([defenses](../defenses.md)).
#
# ## The audit
#
# `--against` names the undefended run. The second and the third line of the command keep this page short.
# Leave them out when you decide about a model:
#
# - A *suite* is a frozen list of attacks, and `smoke-v1` is the shortest. It only shows that everything runs,
#   which the card says of itself. By default you get `quick-v4`, which takes some minutes.
# - `--attacker-size 300 --attacked 60` gives the attacker few images and attacks few.
# - `--judge-epochs 0` leaves out a classifier that looks at the rebuilt pictures (more about it below).
# - `--bounds` names two of the bounds; by default the card has a line for each of them.

# %%
# !splitveil audit runs/defended --against runs/plain \
#     --suite smoke-v1 --attacker-size 300 --attacked 60 --judge-epochs 0 \
#     --bounds mixture --bounds linkage

# %% [markdown]
# This is the card in text. `runs/defended/audit/audit.html` holds it as a page to print or to send, with
# pictures; it looks [like this one](../audit.md). Go through it from top to bottom. Brackets are 95 %
# intervals over the images.
#
# **accuracy on test images**, and the difference to the undefended run in points. This is what the defense
# costs. It is measured on the same images, so the difference has an interval of its own. If the interval
# holds 0, no cost is shown, which is not the same as no cost: look how wide it is.
#
# **error of the best attacker**. MSE is the mean squared error of the rebuilt pictures, with pixels between 0
# and 1. *Best* means the attack that did best on images which the attacker held out. Higher is more private.
# Its name stands in brackets. *Choice per image* is an attacker who makes all attacks and takes, for each
# wire, the answer whose own wire comes nearest to it. **The worst case** takes the lowest error of any attack
# for each image; nobody can do that without having the image, so it is a limit and not an attacker.
#
# **error on runs/plain**: the same attacks on the undefended wire. The distance between these two is what the
# defense does.
#
# **way from there to the mean image of the true class**. The server has to learn the class, so a wire cannot
# hide more than everything but the class. 0 % is the undefended wire, 100 % a wire that tells the class only.
# This is the line to compare models by.
#
# **error of the mean image**: what an attacker reaches who has seen no wire. An attack near it has learned
# nothing, which may be its own fault.
#
# **a classifier recognizes**: this line is missing here. With it, another network, trained on clean images,
# looks at the rebuilt pictures. If it recognizes in them nearly what it recognizes in originals, the content
# is still there, however large the squared error is. A low share in the originals is suspicious: then the
# classifier is too weak to say anything.
#
# **bytes on the wire**. n bits tell at most n bits about the image. It is the only line that needs no
# assumption, and usually it is too large to reassure you.
#
# **The bounds.** *At most* says that no attacker can do more, and *at least* that some attacker does this
# much, each under the assumptions that stand on the card. `linkage` is the one to read first: how often the
# right photo is found among 10 or 100 by whoever has the wire and the encoder. This often works nearly every
# time, even where no picture can be made out. `mixture` says how many nats the wire tells about the image (1
# nat is 1.44 bits): below 1 nat little is told, and dozens are enough to tell every photo of mankind apart. A
# bound that *says nothing* names the reason. [All of them](../bounds.md).
#
# **The verdict** is one of three: *leaks like an undefended model*, *reduces leakage*, *hides the picture
# from these attacks*. The sentences below it name the thresholds. No verdict says "safe", because attacks
# show what was achieved and not what is possible.
#
# **Flags** are reasons not to trust a figure yet, such as an attack that was stopped early. As long as there
# are flags, do not say yes on the basis of the card. Here one flag says that the suite is too short; others
# may show the consequences.
#
# ## The same for a program
#
# `audit.json` has all of it; [a JSON Schema](../audit.schema.json) describes it.

# %%
card = json.loads(Path("runs/defended/audit/audit.json").read_text())
print(card["verdict"]["level"])
print("best attacker:", card["best_attacker"]["name"], card["best_attacker"]["mse"])
print("flags:", len(card["flags"]))

# %% [markdown]
# The card shows three pictures: those of the most, the median and the least leaked image. An average can be
# fine while single pictures are wide open, so look at the most leaked one first. `sv.load` reads the run's
# attacks. Here are the four images with the least error on the left and the four with the most on the right,
# above what the attack with the lowest error made of them:

# %%
import splitveil as sv

results = sv.load("runs/defended").results
strongest = min(results.values(), key=lambda result: result.mse)
order = strongest.outcome.values["mse"].argsort().tolist()
strongest.plot(order[:4] + order[-4:])

# %% [markdown]
# ## Decide by rules that you wrote beforehand
#
# Whoever looks at the figures first and chooses the limits afterwards will find limits that fit. So write
# down what your product needs, as a *policy*, and let the audit judge.

# %%
_ = Path("policy.yaml").write_text("""\
require:
  accuracy: {at_least: 0.70}
  linkage: {at_most: 0.50}     # the right photo among the most candidates
  share_of_ceiling: {at_least: 0.60}
  flags: {at_most: 0}
  verdict: [reduces leakage, hides the picture from these attacks]
""")

# %%
# !splitveil audit runs/defended --against runs/plain \
#     --suite smoke-v1 --attacker-size 300 --attacked 60 --judge-epochs 0 \
#     --bounds mixture --bounds linkage --policy policy.yaml

# %%
_exit_code

# %% [markdown]
# The attacks are not made again: an audit keeps what is done. The table at the end has a line for each
# requirement. The whole interval must lie within the limit, so "we do not know precisely enough" counts as
# no.
#
# `_exit_code` is what the command ended with (`$?` in a shell):
#
# | exit code | meaning | what your pipeline does |
# |---|---|---|
# | 0 | every requirement is met | goes on |
# | 1 | one is not met, and the table says which | stops; a person reads the card |
# | 2 | the command could not run: a wrong path, a misspelled option | stops; somebody repairs the pipeline |
# | 130 | it was interrupted | run it again: it goes on where it was |
#
# The difference between 1 and 2 matters: a pipeline that treats a typing error as "not private" hides the
# error, and one that ignores both ships anything.

# %%
# !splitveil audit runs/defendet --policy policy.yaml

# %%
_exit_code

# %% [markdown]
# The policy's lines are in `audit.json` too:

# %%
card = json.loads(Path("runs/defended/audit/audit.json").read_text())
print("not met:", [line["requirement"] for line in card["policy"]["lines"] if not line["met"]])

# %% [markdown]
# In a workflow this is one line, because a step fails on every code but 0:
#
# ```yaml
# - run: splitveil audit runs/defended --against runs/plain --policy policy.yaml
# - uses: actions/upload-artifact@v4
#   if: always()
#   with: {name: privacy-card, path: runs/defended/audit}
# ```
#
# ## So, may it ship?
#
# No. The policy is not met, and there are flags, so the attacks may have been too weak and their figures
# should not be quoted. That is the normal outcome of a first audit. What to do next depends on the line:
#
# - **flags**: run the full suite, and repeat until none is left or each is explained.
# - **linkage**: the noise must also cover what tells two photos apart, which is more than what draws a
#   picture. Ask whether it matters for you: does anybody who reads your wire have candidate photos?
# - **share_of_ceiling**: more noise, a later cut, or `splitveil harden`, which puts the noise where the task
#   needs it least.
# - **accuracy**: less noise, or a longer training.
#
# Then change one thing, train again with the same seed, and audit again.
#
# ## The same on CIFAR-10
#
# <!-- cifar10 -->
#
# The noise nearly doubles the attacker's error, costs about a point of accuracy, and still the right photo is
# found among 1,000 every time. [The whole card](../audit.md#what-it-said-of-a-hardened-network) is a good one
# to read with the list above. Nothing on it says that the picture is hidden.
#
# ## Where to go from here
#
# - [The privacy card](../audit.md): every option, every requirement of a policy.
# - A network of your own, without a run folder: [`splitveil.privacy_card`](../python.md#may-it-ship).
# - [From a run to a service](from_a_run_to_a_service.py): export a run, and put its card beside the files
#   that ship.
# - [Where to cut](../cuts.md), [harden](../harden.md), [defenses](../defenses.md): what to change when the
#   answer is no.
