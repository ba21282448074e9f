"""Break the code on purpose, one place at a time, and count how often the tests notice.

    python benchmarks/mutants.py --per-file 25 --out mutants.json

Of all mutants that cosmic-ray makes of a file (an operator, a number, a condition changed), as many are drawn at random
as ``--per-file`` says, without those that only change annotations. Each runs against the tests of its room in a copy of
the repository, and each result is written at once: a second call goes on where the first ended.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
TARGETS: dict[str, tuple[str, ...]] = {
    "metrics.py": ("tests/test_metrics.py",),
    "defenses/cem.py": ("tests/defenses/test_cem.py", "tests/defenses/test_cem_few_images.py"),
    "training/loop.py": (
        "tests/training/test_training.py",
        "tests/training/test_training_choice.py",
        "tests/training/test_recipes.py",
    ),
    "training/trainer.py": ("tests/training/test_training.py", "tests/training/test_training_choice.py"),
    "attacks/linear.py": ("tests/attacks/test_linear.py", "tests/attacks/test_mmse.py"),
    "attacks/decoder.py": ("tests/attacks/test_decoder_steps.py", "tests/attacks/test_attacks.py"),
    "attacks/gan.py": ("tests/attacks/test_gan.py", "tests/attacks/test_attacks.py"),
    "evaluation/evaluate.py": ("tests/evaluation/test_evaluation.py", "tests/evaluation/test_interception.py"),
}
"""Files of the package and the tests that are about them."""
IRRELEVANT = ("RemoveDecorator", "ExceptionReplacer", "VariableInserter", "VariableReplacer")
"""Operators that are left out: they make no valid plug-in, fail, or want to be told a variable."""
TIMEOUT = 600
LEFT_OUT = {".git", ".venv", "data", "runs", "demo"}
"""What stands at the root and the tests do not need."""


def main() -> None:
    """Draw, run and report the mutants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-file", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    given = parser.parse_args()
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=lambda at, names: LEFT_OUT & {*names} if Path(at) == ROOT else set())
        for name in given.only:
            path = copy / "src" / "splitveil" / name
            source = path.read_text(encoding="utf-8")
            if not passes(copy, TARGETS[name]):
                sys.exit(f"the tests of {name} fail without any mutant")
            found = mutants(source)
            for operator, number in drawn(source, found, given.per_file, random.Random(given.seed)):
                key = f"{name} {operator} {number}"
                if key in results:
                    continue
                path.write_text(mutated(source, operator, number), encoding="utf-8")
                results[key] = "survived" if passes(copy, TARGETS[name]) else "killed"
                path.write_text(source, encoding="utf-8")
                given.out.write_text(json.dumps(results, indent=1))
            print(summary(name, results), flush=True)
    print(summary("", results))


def mutants(source: str) -> list[tuple[str, int]]:
    """Return (operator, occurrence) of every mutant."""
    nodes = list(ast_nodes(get_ast(source)))
    found = []
    for name in sorted(operator_names()):
        if not name.endswith(IRRELEVANT):
            operator = get_operator(name)()
            places = sum(len(list(operator.mutation_positions(node))) for node in nodes)
            found += [(name, number) for number in range(places)]
    return found


def drawn(source: str, found: list[tuple[str, int]], count: int, rng: random.Random) -> list[tuple[str, int]]:
    """Return ``count`` mutants that change what the code does, as many of each kind of operator where there are."""
    kinds: dict[str, list[tuple[str, int]]] = {}
    for operator, number in rng.sample(found, len(found)):
        kinds.setdefault(operator.partition("_")[0], []).append((operator, number))
    turns = (one for turn in itertools.zip_longest(*kinds.values()) for one in turn if one is not None)
    unlike = (one for one in turns if meaning(mutated(source, one[0], one[1])) not in (None, meaning(source)))
    return list(itertools.islice(unlike, count))


def mutated(source: str, operator: str, number: int) -> str | None:
    """Return the source with the ``number``-th place of an operator changed; None: there are fewer places."""
    return mutate_code(source, get_operator(operator)(), number)


def meaning(source: str | None) -> str | None:
    """Return what the source does, without annotations; None: it is no valid Python."""
    try:
        tree = ast.parse(source or "")
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


def passes(copy: Path, tests: tuple[str, ...]) -> bool:
    """Return whether the tests pass in the copy; a test that hangs has noticed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy / "src"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=TIMEOUT).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def summary(name: str, results: dict[str, str]) -> str:
    """Return how many mutants of a file (all: "") were killed."""
    of = [result for key, result in results.items() if key.startswith(name)]
    killed = of.count("killed")
    return f"{name or 'all'}: {killed} of {len(of)} killed ({100 * killed / max(1, len(of)):.0f} %)"


if __name__ == "__main__":
    main()
