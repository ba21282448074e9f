"""What the benchmarks of fronts share: every defense against noise of equal accuracy, in the cells of a plan.

A cell is an encoder of a seed with all its noises. When it is done it is a file in OUT, and a line of OUT/records.jsonl
once the benchmark ends. Cells in OUT and in --done are not made again, on whatever machine they were made; one that was
stopped goes on. Nothing is compared before all of them are there.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpu_cell
import numpy as np
import rivals
from rivals import How, Job
from trained_tradeoff import commit, shares, spread

from splitveil import runs
from splitveil.results import records
from splitveil.statistics.noise_curve import at_accuracies, at_equal_accuracy
from splitveil.storage.files import write_json, write_text

TESTED = 10_000
Records = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Front:
    """A plan: its cells, and what is compared with what.

    Attributes:
        stem: of the benchmark's name.
        how: every cell is trained and attacked.
        seeds: of the cells.
        encoders: the defenses that each is trained with, by its name.
        names: of the encoders other than `plain`, in the table.
        points: the noises that are put on each encoder, by their names.
        sigma: of the noise of the trainings, which the point `own` has.
        isotropic, filled: strengths of isotropic and of water-filled noise, and their points on `plain`.
        lost: accuracies below that of the undefended wire at which the two noises are compared.
    """

    stem: str
    how: How
    seeds: tuple[int, ...]
    encoders: dict[str, list[str]]
    names: dict[str, str]
    points: dict[str, dict[str, dict[str, Any]]]
    sigma: float
    isotropic: dict[float, str]
    filled: dict[float, str]
    lost: tuple[float, ...]

    @property
    def record(self) -> Path:
        """Return the file of the comparison; that of the cells has the suffix .jsonl."""
        return Path(__file__).with_name(f"{self.stem}.json")

    def cells(self) -> dict[str, tuple[str, int]]:
        """Return encoder and seed of each cell by its name, in the order in which they are made."""
        return {f"{encoder}-s{seed}": (encoder, seed) for seed in self.seeds for encoder in self.encoders}

    def run(self, job: Job) -> None:
        """Train an encoder and attack it behind each of its noises, and leave the record of all that by its folder."""
        rivals.run(job)
        name = f"{job.name}-s{job.seed}"
        diverged = job.out / f"{name}.diverged.json"
        record: dict[str, Any] = {"cell": name, "seeds_planned": len(self.seeds), "encoder": job.name, "seed": job.seed}
        if diverged.is_file():
            record |= {"diverged": json.loads(diverged.read_text("utf-8"))["reason"]}
        else:
            trained = runs.Run.open(job.out / name)
            record |= {"defense": job.defense, "accuracy_as_trained": trained.summary["accuracy"]["mean"]}
            record |= {"precision": trained.summary["precision"], "images_digest": trained.summary["train_digest"]}
            record |= {"points": {point: self._point(job.out / f"{name}-{point}") for point in job.points}}
        write_json(job.out / f"{name}.json", record | {"commit": commit(), "machine": runs.environment()})

    def _point(self, folder: Path) -> dict[str, Any]:
        """Return the figures of a point, with the error of each attacked image and which test images were right."""
        row = json.loads((folder / "row.json").read_text("utf-8"))
        each = {attack: records.per_image(folder, attack)["mse"].tolist() for attack in self.how.attacks}
        errors = {attack: [float(f"{error:.5g}") for error in of] for attack, of in each.items()}
        return row | {"mse_of": errors, "hits": gpu_cell.packed(list(records.answers(folder)))}

    def read(self, paths: list[Path]) -> Records:
        """Return the records that are there, by cell; the first one of a cell counts."""
        found: Records = {}
        lines = [line for path in paths if path.is_file() for line in path.read_text("utf-8").splitlines()]
        for record in map(json.loads, lines):
            if record["cell"] not in self.cells() or record["seeds_planned"] != len(self.seeds):
                sys.exit(f"{record['cell']} is a record of another plan; expected one of {', '.join(self.cells())}")
            found.setdefault(record["cell"], record)
        return found

    def of_all(self, made: Records, name: str) -> list[dict[str, Any]] | None:
        """Return the figures of a point, such as plain/own, of each seed; None: some are missing."""
        encoder, _, point = name.partition("/")
        each = [made.get(f"{encoder}-s{seed}", {}).get("points", {}).get(point) for seed in self.seeds]
        return each if all(each) else None

    def arrays(self, made: Records, names: list[str], attack: str) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
        """Return each seed's errors (points, N) and answers (points, M); None: some points are missing."""
        each = [self.of_all(made, name) for name in names]
        if not all(each):
            return None
        by_seed = list(zip(*[rows for rows in each if rows], strict=True))
        errors = [np.stack([row["mse_of"][attack] for row in rows]) for rows in by_seed]
        return errors, [np.stack([gpu_cell.unpacked(row["hits"], TESTED) for row in rows]) for rows in by_seed]

    def against(self, made: Records, curve: dict[float, str], name: str, attack: str) -> dict[str, Any] | None:
        """Return a point against a curve at its accuracy, over all seeds; None: some points are missing."""
        there = self.arrays(made, [*curve.values(), name], attack)
        if there is None:
            return None
        (one,) = at_equal_accuracy(tuple(curve), *there, shared=(False, True))
        difference = one.difference and shares(one.difference)
        about = {"accuracy": one.accuracy, "reference": one.reference, "difference": difference}
        return about | {"at_end": one.at_end, "beyond": one.beyond}

    def endpoints(self, made: Records, attack: str) -> list[dict[str, Any]] | None:
        """Return water-filled against isotropic noise at the plan's accuracies; None: some points are missing."""
        there = self.arrays(made, [*self.isotropic.values(), *self.filled.values()], attack)
        if there is None:
            return None
        accuracy = float(np.mean([hits[0].mean() for hits in there[1]]))
        asked = tuple(accuracy - lost for lost in self.lost)
        found = at_accuracies(tuple(self.isotropic), tuple(self.filled), asked, *there, shared=(False, True))
        return [
            {
                "lost": lost,
                "accuracy": one.accuracy,
                "isotropic": one.reference,
                "waterfill": one.mse,
                "difference": one.difference and shares(one.difference),
                "beyond": one.beyond,
            }
            for lost, one in zip(self.lost, found, strict=True)
        ]

    def summarized(self, made: Records) -> dict[str, Any]:
        """Return the rows over the seeds, the endpoints and every other comparison."""
        rows, compared = {}, {}
        for name in [f"{encoder}/{point}" for encoder, points in self.points.items() for point in points]:
            if not (each := self.of_all(made, name)):
                continue
            rows[name] = {"accuracy": spread([row["accuracy"] for row in each])}
            rows[name] |= {f"{attack}_{metric}": spread([row[attack][metric] for row in each])
                           for attack in self.how.attacks for metric in ("mse", "ssim")}  # fmt: skip
            rows[name] |= {"linkage_1000": spread([row["linkage_1000"] for row in each])}
            curves = {"isotropic": self.isotropic, "waterfill": self.filled}
            compared[name] = {
                f"{attack}/{kind}": self.against(made, curve, name, attack)
                for kind, curve in curves.items()
                for attack in self.how.attacks
                if name not in curve.values()
            }
        ends = {attack: self.endpoints(made, attack) for attack in self.how.attacks}
        return {"endpoints": ends, "compared": compared, "rows": rows}

    def label(self, name: str) -> str:
        """Return a point in words: the defense that its encoder was trained with, and the noise that was put on it."""
        encoder, _, point = name.partition("/")
        kind, _, strength = point.removesuffix("+encoder").partition("-")
        noise = {"own": f"isotropic, σ {self.sigma}", "isotropic": f"isotropic, σ {strength}"}
        words = [self.names[encoder]] if encoder in self.names else []
        if point != "own" or not words:
            words.append(noise.get(kind, f"water-filled, {strength} nats"))
        if kind == "again":
            words.append("Fisher information twice")
        if point.endswith("+encoder"):
            words.append("encoder trained on")
        return ", ".join(words)

    def table(self, result: dict[str, Any]) -> str:
        """Return a row for each point: accuracy, errors, and `residual` against both noises at equal accuracy."""
        lines = []
        for name, row in result["rows"].items():
            texts = [
                self.label(name),
                f"{100 * row['accuracy'][0]:.1f}",
                *(f"{row[f'{attack}_mse'][0]:.4f}" for attack in self.how.attacks),
            ]
            texts += [percent(result["compared"][name].get(f"residual/{kind}")) for kind in ("isotropic", "waterfill")]
            texts += [f"{row['residual_ssim'][0]:.2f}", f"{100 * row['linkage_1000'][0]:.1f}"]
            lines.append(f"| {' | '.join(texts)} |")
        return "\n".join(lines)

    def jobs(self, left: list[str], made: Records, root: Path, out: Path, threads: int) -> list[Job]:
        """Return the jobs of cells, in the precision of the records of their seeds."""
        found = []
        for encoder, seed in (self.cells()[name] for name in left):
            seen = {record.get("precision") for record in made.values() if record["seed"] == seed} - {None}
            settings = self.how.settings | ({"precision": seen.pop()} if seen else {})
            how = replace(self.how, settings=settings)
            found.append(
                Job(encoder, seed, root.absolute(), out, threads, self.encoders[encoder], self.points[encoder], how)
            )
        return found

    def main(self, description: str) -> None:
        """Make the cells that are not there; compare when all are."""
        given, cells_file = self._given(description), self.record.with_suffix(".jsonl")
        file = given.out / "records.jsonl"
        made = self.read([file, *given.done])
        made |= self._left_in(given.out, made)
        left = [name for name in self.cells() if name not in made and fnmatch.fnmatch(name, given.only)]
        if left and not given.no_run:
            given.out.mkdir(parents=True, exist_ok=True)
            with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
                pool.map(self.run, self.jobs(left, made, given.root, given.out, given.threads), chunksize=1)
        made |= self._left_in(given.out, made)
        given.out.mkdir(parents=True, exist_ok=True)
        write_text(file, "".join(json.dumps(record) + "\n" for record in made.values()))
        if missing := [name for name in self.cells() if name not in made]:
            sys.exit(f"cells are missing: {', '.join(missing)}; nothing is compared before all of them are there")
        result = self.summarized(made)
        how = {"settings": self.how.settings, "seeds": self.seeds, "encoders": self.encoders}
        how |= {"attacks": self.how.attacks, "attacker_size": self.how.attacker_size, "attacked": self.how.attacked}
        how |= {"diverged": [name for name, record in made.items() if "diverged" in record]}
        write_json(self.record, {"command": f"python benchmarks/{self.stem}.py", **how, **result})
        write_text(cells_file, "".join(json.dumps(record) + "\n" for record in made.values()))
        print(self.table(result))

    def _left_in(self, out: Path, made: Records) -> Records:
        """Return the records of further cells that are done, where the benchmark was stopped before it wrote them."""
        paths = {name: out / f"{name}.json" for name in self.cells() if name not in made}
        return {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.is_file()}

    def _given(self, description: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
        parser.add_argument("--out", type=Path, default=Path("runs") / self.stem)
        earlier = [self.record.with_suffix(".jsonl")]
        parser.add_argument("--done", type=Path, nargs="*", default=earlier, help="earlier records")
        parser.add_argument("--jobs", type=int, default=2)
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--only", default="*", help="names of the cells to make, with * and ?")
        parser.add_argument("--no-run", action="store_true", help="only compare what is there")
        return parser.parse_args()


def curves(sigmas: tuple[float, ...], losses: tuple[float, ...]) -> dict[str, Any]:
    """Return the two curves of a front whose trainings are those of `rivals`, as arguments of `Front`."""
    isotropic = {rivals.SIGMA: "plain/own"} | {sigma: f"plain/isotropic-{sigma}" for sigma in sigmas}
    filled = {rivals.WITHOUT: "plain/own"} | {loss: f"plain/waterfill-{loss}" for loss in losses}
    return {"sigma": rivals.SIGMA, "isotropic": isotropic, "filled": filled}


def percent(about: dict[str, Any] | None) -> str:
    """Return a difference with its interval in words; nothing of none.

    >>> percent({"difference": [0.54, -0.24, 2.12]})
    '+54 % [−24, +212]'
    """
    if not about or not about["difference"]:
        return ""
    value, low, high = (100 * part for part in about["difference"])
    return f"{value:+.0f} % [{low:+.0f}, {high:+.0f}]".replace("-", "−")
