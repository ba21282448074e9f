"""``splitveil-edge query`` and ``splitveil-edge bench``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from . import __version__, measure
from .client import Answer, Client
from .errors import ServerError, UserError, printable
from .files import Notes, read_images, say

PROG = "splitveil-edge"


@dataclass(frozen=True)
class Server:
    """How a server is reached, as the arguments of `Client` say.

    Attributes:
        url: its address.
        token_file: file with the token; None: the environment's ``SPLITVEIL_TOKEN``, if set.
        ca: file with the certificates that are trusted instead of the system's.
        deadline: seconds that all images may take.
        retries: how often a request is sent again at most.
    """

    url: str
    token_file: Path | None = None
    ca: Path | None = None
    deadline: float = 5.0
    retries: int = 3

    def client(self, bundle: str | Path, **more: Any) -> Client:
        """Return a client for a bundle.

        Args:
            bundle: BUNDLE/device, or BUNDLE.
            **more: further arguments of `Client`.
        """
        return Client(
            self.url,
            bundle,
            token=self.token_file,
            ca=self.ca,
            deadline=self.deadline,
            retries=self.retries,
            **more,
        )


def query(
    bundle: str | Path, files: Sequence[str | Path], server: Server, resize: str | None = None, as_json: bool = False
) -> str:
    """Return the answers to the images in some files, as a table or as JSON.

    Args:
        bundle: BUNDLE/device, or BUNDLE.
        files: images that Pillow reads, or .npy of uint8 (H, W, C) or (B, H, W, C).
        server: that is asked.
        resize: ``bilinear`` scales images of another size; None refuses them.
        as_json: whether the text is a list of objects of ``image``, ``label``, ``logits`` and ``id``.

    Raises:
        UserError: bad input, or a request that is refused.
        ServerError: a server that fails or does not answer.
    """
    with server.client(bundle, resize=resize) as client:
        notes = Notes(list)
        named = [pair for file in files for pair in read_images(Path(file), client.device.image, resize, notes)]
        say(notes)  # before anything is sent
        answers = client.classify([image for _, image in named])
    names = [name for name, _ in named]
    if as_json:
        rows = [
            {"image": name, "label": a.label, "logits": [float(value) for value in a.logits], "id": a.id}
            for name, a in zip(names, answers, strict=True)
        ]
        return json.dumps(rows, indent=2, ensure_ascii=False)
    return _table(names, answers)


def bench(bundle: str | Path, server: Server | None, images: int, as_json: bool = False) -> str:
    """Return what an image costs the device and, with a server, how long an answer takes, as a table or as JSON.

    Args:
        bundle: BUNDLE/device, or BUNDLE.
        server: that is asked; None: nothing is sent.
        images: random images that are encoded, and sent one by one.
        as_json: whether the text is an object.

    Raises:
        UserError: bad input, or a request that is refused.
        ServerError: a server that fails or does not answer.
    """
    found = measure.device(bundle, images)
    if server is not None:
        with server.client(bundle, remember=0) as client:
            found |= measure.answers(client, images)
    if as_json:
        return json.dumps(found, indent=2)
    widest = max(map(len, measure.WORDS.values()))
    return "\n".join(f"{measure.WORDS[key]:{widest}}  {value:.4g}" for key, value in found.items())


def main(tokens: Sequence[str] | None = None) -> None:
    """Run the command: bad input is one line and exit code 2, a server that fails is one and 1, Ctrl-C is 130.

    Args:
        tokens: words of the command line; None: those of the process.
    """
    words = sys.argv[1:] if tokens is None else list(tokens)
    try:
        if any(word.partition("=")[0] == "--token" for word in words):
            raise UserError(
                "a token is never an argument, which others could read; use --token-file or SPLITVEIL_TOKEN"
            )
        args = _parser().parse_args(words)
        print(args.run(args))
    except UserError as error:
        _end(str(error), 2)
    except ServerError as error:
        _end(str(error), 1)
    except KeyboardInterrupt:
        _end("stopped", 130)


def _end(text: str, code: int) -> NoReturn:
    print(f"{PROG}: {printable(text, 2000)}", file=sys.stderr)
    raise SystemExit(code)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with one line instead of the whole usage."""
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROG, allow_abbrev=False, description="Ask a server about images of which it gets the noisy wire only."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="query|bench")
    asked = _command(commands, "query", "print what a server says of some images", _run_query)
    asked.add_argument("images", nargs="+", help="files that Pillow reads, or .npy of uint8 (H, W, C) or (B, H, W, C)")
    asked.add_argument("--url", required=True, help="https://HOST:PORT, or http:// for this machine")
    asked.add_argument("--resize", metavar="bilinear", help="scale images of another size, which else are refused")
    measured = _command(commands, "bench", "measure the encoder, and with --url a server's answers", _run_bench)
    measured.add_argument("--url", help="server that is sent random images")
    measured.add_argument("--images", type=int, default=200, help="how many (default: 200)")
    return parser


def _command(commands: Any, name: str, text: str, run: Callable[[argparse.Namespace], str]) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(run=run)
    parser.add_argument("bundle", help="BUNDLE/device")
    parser.add_argument(
        "--token-file", type=Path, help="file with the token (or set SPLITVEIL_TOKEN; a token is never an argument)"
    )
    parser.add_argument("--ca", type=Path, help="PEM file of the authority to trust instead of the system's")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds for all images (default: 5)")
    parser.add_argument("--retries", type=int, default=3, help="most tries after the first (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _server(args: argparse.Namespace) -> Server:
    return Server(args.url, args.token_file, args.ca, args.deadline, args.retries)


def _run_query(args: argparse.Namespace) -> str:
    return query(args.bundle, args.images, _server(args), args.resize, args.json)


def _run_bench(args: argparse.Namespace) -> str:
    return bench(args.bundle, _server(args) if args.url else None, args.images, args.json)


def _table(names: Sequence[str], answers: Sequence[Answer]) -> str:
    """Return one line for each image: its name, its class and the share of that class (softmax of the logits)."""
    rows = [("image", "class", "share")]
    for name, answer in zip(names, answers, strict=True):
        odds = np.exp(answer.logits.astype(np.float64) - answer.logits.max())
        rows.append((printable(name), printable(answer.label), f"{odds.max() / odds.sum():.1%}"))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{image:{widths[0]}}  {label:{widths[1]}}  {share:>6}" for image, label, share in rows)
