"""Pages of the Python interface: which objects are public, and that each has a docstring. mkdocstrings renders them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import griffe

from .staging import ROOT

OF_TORCH = {"forward", "extra_repr"}
SOURCES = (ROOT / "src", ROOT / "edge/src")


@dataclass(frozen=True)
class Room:
    """A page of the reference.

    Attributes:
        page: its name.
        title: its heading.
        about: its first paragraph.
        objects: dotted names, shown with their public methods.
        plugins: folders whose plug-ins follow, shown with their settings only: hooks are described in the base class.
    """

    page: str
    title: str
    about: str
    objects: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()


ROOMS = (
    Room(
        "splitveil",
        "splitveil",
        "The calls for a network of your own: `import splitveil as sv`, then `sv.split`, `sv.fit`, `sv.attack`. Every\n"
        "defense, attack and bound is there too by the name of its class, without the word Attack or Bound:\n"
        "`sv.Gaussian`, `sv.Decoder`. [A page with examples](../../python.md).",
        tuple(
            f"splitveil.{name}"
            for name in (
                "api.split",
                "api.fit",
                "api.attack",
                "api.evaluate",
                "api.accuracy",
                "api.bound",
                "api.harden",
                "coded.with_codec",
                "audit.own.privacy_card",
                "audit.own.PrivacyCard",
                "audit.own_cuts.compare_cuts",
                "audit.own_cuts.Cuts",
                "deploy.own.export",
                "saved.save",
                "saved.load",
                "model.SplitModel",
                "outcomes.Result",
                "outcomes.Report",
                "saved.Saved",
                "training.own_loop.OwnLoop",
                "data.protocol.Access",
                "errors.UserError",
            )
        ),
    ),
    Room(
        "defenses",
        "Defenses",
        "A defense changes the wire, the training or both. Give one by name on the command line\n"
        "(`--defense gaussian:0.1`) or as an object from Python (`sv.Gaussian(0.1)`); each is described here with its\n"
        "settings. [What they do and cost](../../defenses.md);\n"
        "[how to write one](../../guides/add-a-plugin.md#a-defense).",
        (
            "splitveil.defenses.base.Defense",
            "splitveil.defenses.base.Stack",
            "splitveil.defenses.base.Step",
            "splitveil.defenses.base.Features",
        ),
        ("defenses",),
    ),
    Room(
        "attacks",
        "Attacks",
        "An attack learns from images of the attacker's own and then reconstructs the private ones from their wires.\n"
        "[What each needs, and how evaluations go wrong](../../attacks.md);\n"
        "[how to write one](../../guides/add-a-plugin.md#an-attack).",
        ("splitveil.attacks.base.Attack", "splitveil.victim.Victim", "splitveil.runtime.Runtime"),
        ("attacks",),
    ),
    Room(
        "bounds",
        "Bounds",
        "A bound says how much a wire gives away, whatever the attack; each names its assumptions.\n"
        "[What they mean](../../bounds.md); [how to write one](../../guides/add-a-plugin.md#a-bound).",
        (
            "splitveil.bounds.base.Bound",
            "splitveil.bounds.base.Channel",
            "splitveil.bounds.base.Conditional",
            "splitveil.bounds.base.Estimate",
            "splitveil.bounds.base.BoundError",
        ),
        ("bounds",),
    ),
    Room(
        "data",
        "Image sets and protocols",
        "Image sets are uint8 tensors; a protocol says who trains on which of them.\n"
        "[How to add a set](../../guides/add-a-plugin.md#a-data-set).",
        (
            "splitveil.data._load.load",
            "splitveil.data.base.ImageSet",
            "splitveil.data.base.Split",
            "splitveil.data.streamed.Streamed",
            "splitveil.data.protocol.Protocol",
            "splitveil.data.protocol.protocol",
            "splitveil.data._augment.augment",
            "splitveil.data._augment.to_float",
            "splitveil.data.base.channel_statistics",
        ),
        ("data",),
    ),
    Room(
        "networks",
        "Networks and decoders",
        "Networks by name, cut into the device's encoder and the cloud's tail, and the decoders that attacks train.\n"
        "[How to add one](../../guides/add-a-plugin.md#a-network).",
        (
            "splitveil.zoo.build",
            "splitveil.zoo.base.Bottleneck",
            "splitveil.zoo.base.Parts",
            "splitveil.zoo.base.assemble",
            "splitveil.zoo.decoders.build",
        ),
        ("zoo", "zoo/decoders"),
    ),
    Room(
        "evaluation",
        "Suites and evaluation",
        "What `splitveil attack` does, as calls on run folders. [Suites, metrics and flags](../../attacks.md).",
        (
            "splitveil.evaluation.evaluate.attack_run",
            "splitveil.evaluation.evaluate.Outcome",
            "splitveil.evaluation.stage.ThreatModel",
            "splitveil.evaluation.suites.run_suite",
            "splitveil.evaluation.suites.named",
            "splitveil.evaluation.suites.worst_case",
            "splitveil.evaluation.tail.retrain",
            "splitveil.evaluation.reidentification.Judge",
            "splitveil.metrics",
            "splitveil.statistics.intervals.Interval",
        ),
    ),
    Room(
        "runs",
        "Runs and settings",
        "What `splitveil train`, `harden`, `audit` and `legacy` do, as calls.",
        (
            "splitveil.config.TrainConfig",
            "splitveil.recipe.Recipe",
            "splitveil.runs.Run",
            "splitveil.training.trainer.fit",
            "splitveil.hardening.run.harden",
            "splitveil.audit.run.audit",
            "splitveil.legacy.checkpoint.import_checkpoint",
            "splitveil.legacy.script.read_script",
            "splitveil.legacy.translate.read_options",
            "splitveil.legacy.translate.Translation",
            "splitveil.legacy.script.Grid",
            "splitveil.registry.plugin",
            "splitveil.registry.Registry",
            "splitveil.randomness.fresh_generator",
            "splitveil.randomness.stream",
        ),
    ),
    Room(
        "deploy",
        "Export",
        "A trained model as two ONNX files in a bundle. [How it is exported, and what is checked](../../export.md).",
        (
            "splitveil.deploy.export.export",
            "splitveil.deploy.export.Options",
            "splitveil.deploy.export.Exported",
            "splitveil.deploy.bundle.Bundle",
            "splitveil.deploy.bundle.read",
            "splitveil.deploy.page.of",
            "splitveil.coded.coded_run",
        ),
    ),
    Room(
        "serving",
        "Serving",
        "The server behind `splitveil serve`; it imports no torch. [How to serve](../../serve.md).",
        (
            "splitveil.serving.serve.launch",
            "splitveil.serving.settings.Settings",
            "splitveil.serving.limits.Limits",
            "splitveil.serving.tokens.make",
            "splitveil.serving.tokens.Tokens",
            "splitveil.serving.service.Service",
        ),
    ),
    Room(
        "edge",
        "splitveil_edge",
        "The device's side, a package of its own that needs neither torch nor SplitVeil.\n"
        "[How to use it](../../edge.md).",
        (
            "splitveil_edge.client.Client",
            "splitveil_edge.client.Answer",
            "splitveil_edge.errors.EdgeError",
            "splitveil_edge.errors.ServerError",
            "splitveil_edge.errors.UserError",
        ),
    ),
)


def plugins(folder: str) -> dict[str, str]:
    """Return the dotted names of a folder's plug-ins by the names under which they are registered.

    Args:
        folder: below src/splitveil, such as ``defenses``.

    >>> plugins("defenses")["`gaussian`"]
    'splitveil.defenses.gaussian.Gaussian'
    """
    found = {}
    for path in sorted((ROOT / "src/splitveil" / folder).glob("[a-z]*.py")):
        module = ".".join(("splitveil", *folder.split("/"), path.stem))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                calls = [one for one in node.decorator_list if isinstance(one, ast.Call)]
                marks = [one for one in calls if isinstance(one.func, ast.Name) and one.func.id == "plugin"]
                for mark in marks:
                    names = [f"`{one.value}`" for one in mark.args if isinstance(one, ast.Constant)]
                    found[", ".join(names) or f"`{path.stem}`"] = f"{module}.{node.name}"
    return found


def write(out: Path) -> list[tuple[str, str]]:
    """Write the pages that mkdocstrings fills.

    Args:
        out: folder of the site's sources.

    Returns:
        Title and path of each page, for the navigation.
    """
    folder = out / "reference/python"
    folder.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        text = [f"# {room.title}", room.about]
        text += [f"::: {name}" for name in room.objects]
        for kind in room.plugins:
            for title, name in plugins(kind).items():
                text.append(f"::: {name}\n    options:\n      members: false\n      heading: {json_text(title, name)}")
        (folder / f"{room.page}.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return [(room.title, f"reference/python/{room.page}.md") for room in ROOMS]


def json_text(title: str, name: str) -> str:
    """Return the heading of a plug-in as YAML text: the names to type, and the class or function.

    Args:
        title: names under which it is registered, in backticks.
        name: its dotted name.
    """
    return f'"{title.replace("`", "")} · {name.rpartition(".")[2]}"'


def undocumented(package: griffe.Object | griffe.Alias) -> list[str]:
    """Return what the reference shows of a package without a docstring: objects, and their public methods.

    Args:
        package: with all its modules.
    """
    missing = []
    for room in ROOMS:
        shown = [(name, True) for name in room.objects]
        shown += [(name, False) for kind in room.plugins for name in plugins(kind).values()]
        for name, with_members in shown:
            first, _, inside = name.partition(".")
            if first != package.name:
                continue
            found = package[inside]
            missing += [] if found.has_docstring else [name]
            if with_members and (found.is_class or found.is_module):
                described = _described_above(found)
                missing += [one.path for one in found.members.values() if _is_bare(one) and one.name not in described]
    return missing


def _is_bare(member: griffe.Object | griffe.Alias) -> bool:
    """Return whether a member of a class or module is public, defined there, and has no docstring."""
    here = not member.is_alias and not member.name.startswith("_")
    return here and (member.is_function or member.is_class) and not member.has_docstring


def _described_above(kind: griffe.Object | griffe.Alias) -> set[str]:
    """Return the methods of a class that its bases describe: hooks, and what PyTorch defines."""
    bases = kind.mro() if isinstance(kind, griffe.Class) else []
    return {name for base in bases for name, member in base.members.items() if member.has_docstring} | OF_TORCH
