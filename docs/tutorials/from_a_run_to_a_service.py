# %% [markdown]
# # From a run to a service
#
# You have a trained split model. You want a device that takes pictures and a server that answers, with as
# little of the picture as possible between them. In this tutorial you train a small model, export it into one
# folder for the device and one for the server, start the server with encryption and a token, ask it as a
# device does, and look at what crosses the network: the **wire**.
#
# Everything runs on this machine. [From a run to a service](../service.md) is the same path for people in a
# hurry, with clusters, phones and browsers. Commands begin with `!` here, as in every notebook; in a terminal
# you leave it out. You need `pip install 'splitveil[deploy]' splitveil-edge`
# ([how to install](../start.md#install)), and the command `openssl`.

# %%
import json
import os
import tempfile
from pathlib import Path

import numpy as np

os.environ |= {"TTY_COMPATIBLE": "0", "COLUMNS": "100"}  # text, no bars of progress
os.chdir(tempfile.mkdtemp())  # everything below is written into a folder of its own

# %% [markdown]
# ## A run
#
# The images are handwritten digits of 16×16 pixels, in folders by class, as you would have your own. Four
# channels cross the wire, with Gaussian noise of standard deviation 0.3 on them.

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
#     --recipe fast --epochs 6 --batch-size 50 --lr 0.05 --defense gaussian:0.3 --out run

# %% [markdown]
# Before you ship a model of your own, audit it: [read a privacy card](read_a_card.py) shows how. An audit
# with `--codec uint4` judges the bytes that are really sent, and its card travels with the export.
#
# ## Export
#
# An export turns the run into two programs in the ONNX format, which run without PyTorch and without
# SplitVeil, checks both against PyTorch, and writes them as a *bundle*. The *codec* turns the numbers of the
# wire into bytes. `uint4` sends two numbers in each byte.

# %%
# !splitveil export run --out bundle --codec uint4

# %% [markdown]
# Read four lines of the table:
#
# - **on the wire for an image** is what the device will send. Compare it with the picture's own size: 16×16×3
#   bytes.
# - **error of the codec**, in deviations of the noise. Far below 1 means that rounding costs nothing beside
#   the noise that is there anyway.
# - **difference, points**: accuracy of the bundle minus that in PyTorch, on the same images with the same
#   noise. Its interval should hold 0.
# - **its MSE on what is sent**: the mean squared error of a linear attacker, the simplest there is, on these
#   very bytes, with pixels between 0 and 1. It is a reminder that noise and rounding do not make the picture
#   disappear: you will see below what such an error looks like.
#
# ## Look into the bundle

# %%
for path in sorted(Path("bundle").rglob("*")):
    if path.is_file():
        print(f"{path.stat().st_size:10,} {path}")

# %% [markdown]
# The device gets the folder `bundle/device` and the server the folder `bundle/cloud`, and neither gets the
# other's. The device never holds the tail, which is the part of the network that answers. The server never
# gets `attack/linear.onnx`, which draws what a linear attacker sees; you will use it below.
#
# `wire.json` is the contract between the two:

# %%
wire = json.loads(Path("bundle/device/wire.json").read_text())
for key in ("name", "pair", "image", "draws", "wire"):
    print(key, "=", wire[key])

# %% [markdown]
# - `draws` is what the device has to draw freshly for each image: the noise. It is an *input* of the program
#   and not part of it. A program that drew its own noise would draw it from a seed, and whoever knows the
#   seed takes the noise off.
# - `pair` identifies this export. The server offers the model as NAME-PAIR, so that a device of another
#   export gets a refusal instead of wrong answers.
#
# The checksums tell whether a file was damaged on its way. They do not tell whether somebody exchanged it:
# deliver the device's folder as you deliver software, signed.

# %%
# !cd bundle/device && sha256sum -c SHA256SUMS

# %% [markdown]
# ## Start the server
#
# Strangers must neither read the wire nor ask the server. The first needs TLS, hence a certificate and its
# key; here openssl makes one for this machine. The second needs a token for each client. The server's file
# `tokens` holds only a hash of it, and the client gets the token itself.

# %%
# !openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem \
#     -out cert.pem -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
#     2> openssl.log

# %%
# !splitveil token phone --file tokens > token

# %% [markdown]
# In a terminal you would now type
#
# ```bash
# splitveil serve bundle/cloud --port 8443 --tls-cert cert.pem --tls-key key.pem --token-file tokens
# ```
#
# and leave it running. A notebook starts the same command beside itself. `--port 0` takes any port that is
# free, and the first line that the server prints says which one. Its log goes to a file.

# %%
import re
import shutil
import subprocess
import sys

program = shutil.which("splitveil", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
command = [program, "serve", "bundle/cloud", "--port", "0", "--token-file", "tokens"]
command += ["--tls-cert", "cert.pem", "--tls-key", "key.pem"]
with Path("log").open("w") as log:
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
ready = server.stdout.readline()
port = re.search(r":(\d+)", ready)[1]
print(re.sub(r":\d+", ":PORT", ready))

# %% [markdown]
# ## Ask it as a device does
#
# `splitveil_edge` is the package for the device. It needs neither PyTorch nor SplitVeil. The client gets the
# address, the device's folder, the token, and the certificate that it should trust. `remember=0` switches off
# a protection that you will meet below.

# %%
from splitveil_edge import Client

files = [sorted(Path("digits", str(digit)).glob("*.png"))[0] for digit in range(8)]
pictures = np.stack([np.array(Image.open(file).convert("RGB")) for file in files])
where = {"path": "bundle/device", "token": Path("token"), "ca": "cert.pem"}
with Client(f"https://localhost:{port}", **where, remember=0) as client:
    answers = client.classify(pictures)
print("shown:   ", *range(8))
print("answered:", *(answer.label for answer in answers))
print("logits of the first:", np.round(answers[0].logits, 1))

# %% [markdown]
# Each answer has the label, the logits, and the id under which the server logs the request. A wrong label
# here and there is the model's fault: the digits are small, and the training was short. If *all* labels were
# wrong, the pixels would not be what the network was trained with: another size, or another order of the
# colors.
#
# Without the token there is no answer, and the reason is one line:

# %%
from splitveil_edge import UserError

try:
    Client(f"https://localhost:{port}", **where | {"token": "guessed"}).classify(pictures[:1])
except UserError as error:
    print(error)

# %% [markdown]
# ## What crosses the wire
#
# The device sends the bytes that its encoder makes, and nothing else about the picture. `Encoder` is what the
# client uses inside. You make the wires of the first picture twice:

# %%
from splitveil_edge.bundle import read
from splitveil_edge.encode import Encoder

encoder = Encoder(read("bundle/device"))
first, second = encoder(pictures), encoder(pictures)
print(f"a picture has {pictures[0].nbytes} bytes, its wire {first[0].nbytes}")
print("first 16 bytes:", first[0][:16])
print("the same again:", second[0][:16])

# %% [markdown]
# The two differ because the noise is drawn anew. For somebody who knows nothing these are random bytes. The
# attackers that count do know something: the encoder, which is on every device. The export has also written
# the simplest of these attackers, as `attack/linear.onnx`:

# %%
import onnxruntime

from splitveil.pictures import inline_figure

attacker = onnxruntime.InferenceSession("bundle/attack/linear.onnx")


def rebuilt(wires):
    return attacker.run(None, {"wire": wires})[0]


many = np.stack([encoder(pictures) for _ in range(32)])
averaged = np.mean([rebuilt(wires) for wires in many], axis=0).astype("uint8")
figure = inline_figure(figsize=(8, 3.2))
rows = {"photo": pictures, "1 wire": rebuilt(first), "32 wires": averaged}
for row, (name, shown) in enumerate(rows.items()):
    for column, picture in enumerate(shown):
        axes = figure.add_subplot(3, 8, 8 * row + column + 1)
        axes.imshow(picture)
        axes.set_axis_off()
        if column == 0:
            axes.text(-0.1, 0.5, name, transform=axes.transAxes, ha="right", va="center")
figure

# %% [markdown]
# The upper row is what the camera saw. The middle row is what the attacker makes of one wire of each picture.
# You can read nearly every digit: this model shows how the parts fit together, and protects next to nothing.
# A model of yours that looks like this should not ship, whatever TLS and tokens you put around it: back to
# [the defenses](../defenses.md). For the lower row the attacker had 32 wires of each picture and averaged, so
# that the noise is gone. What is left is what the encoder itself leaves out.

# %%
answers_of = rows["1 wire"], rows["32 wires"]
errors = [np.square(shown / 255 - pictures / 255).mean() for shown in answers_of]
print(f"squared error with one wire {errors[0]:.4f}, with 32 wires {errors[1]:.4f}")

# %% [markdown]
# ## The same picture twice
#
# So the device must not send fresh wires of one picture again and again, and retries are the usual way in
# which that happens. The client prevents both. A retry sends the same bytes, and a picture that it has sent
# before gets the wire that it had, for the last 256 pictures. You see it in the logits, which are equal to
# the last bit:

# %%
with Client(f"https://localhost:{port}", **where) as client:
    one, two = client.classify(pictures[:1])[0], client.classify(pictures[:1])[0]
with Client(f"https://localhost:{port}", **where, remember=0) as client:
    three = client.classify(pictures[:1])[0]
print("remembered:", np.array_equal(one.logits, two.logits))
print("fresh:     ", np.array_equal(one.logits, three.logits))

# %% [markdown]
# What no client can prevent: two photographs of one scene, or the frames of a video, are different pictures
# to it. Each is a further look at the scene. `splitveil attack run --observed 4` says what four looks are
# worth.
#
# ## What the server knows
#
# One line of its log for each request:

# %%
print(Path("log").read_text().splitlines()[0])

# %% [markdown]
# It has the time, the name of the token, the status, sizes and milliseconds, and no wire, no answer and no
# address. Whoever *runs* the server can of course keep the wires. TLS and tokens keep strangers out; against
# the server itself only the noise protects.
#
# ## Stop it
#
# At SIGTERM or Ctrl-C the server answers the requests that it has, takes no new ones, and ends with exit code
# 0.

# %%
server.terminate()
server.wait(30)

# %% [markdown]
# ## The same on CIFAR-10
#
# <!-- cifar10 -->
#
# One thing is other than with the digits: four bits are too coarse for this wire. The error of the codec
# comes near the noise itself, the difference of the accuracy has an interval below 0, and the export says so
# in a flag. Without `--codec` it would have taken eight bits by itself.
#
# ## Where to go from here
#
# - [From a run to a service](../service.md): against whom each part protects, many machines, phones and
#   browsers.
# - [Serve](../serve.md): limits, codes, metrics; [the device](../edge.md): errors, retries, where the noise
#   comes from.
# - [Export](../export.md): what is checked before anything is written.
