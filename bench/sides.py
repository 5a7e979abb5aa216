"""The two sides of a comparison, each run once as a process of its own and measured."""

import json
import shutil
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path

from cases import ROOT, Case, Limit, Program, PyTorch
from process import Failed, run
from samples import Split, padding_of_program

BENCH = Path(__file__).resolve().parent
PYTHON = ROOT / ".venv-export/bin/python"
# Steps before the timed ones: first calls allocate.
WARM_UP = 2


@dataclass(frozen=True)
class Measurement:
    """One run of one side."""

    samples_per_second: float
    step_seconds: list[float]
    data_wait: float  # share of the time
    padding: float  # share of what the speech encoder, or with hidden states in memory the speech head, is given
    peak_bytes: int  # of the largest process
    loss: float  # of the last timed step


def parse(printed: str) -> dict[str, object]:
    """The values of a printed configuration, by section.key."""
    section, found = "", {}
    for line in printed.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif " = " in line and not line.startswith("#"):
            name, value = line.split(" = ", 1)
            # Behind it may stand where it comes from.
            found[f"{section}.{name}"] = value.split("'")[1] if value.startswith("'") else json.JSONDecoder().raw_decode(value)[0]
    return found


class Workplace:
    """A temporary folder with the configurations and manifest of a case, where both sides run."""

    def __init__(self, folder: Path, program: Path, name: str, case: Case, steps: int, threads: int) -> None:
        self.folder, self.program, self.name, self.case = folder / name, program, name, case
        self.steps, self.threads, self.runs = steps, threads, 0
        self.folder.mkdir()
        self.manifest = self.folder / "manifest.jsonl"
        self.settings = self.folder / "settings.json"
        self.values = parse(self.configure(case.ours).read_text())
        self.settings.write_text(json.dumps(self.values))
        self.call("data", "manifest", self.configure(case.ours), "--out", self.manifest)
        self.split = Split.read(self.manifest)
        if case.ours.uses_disk:
            self.call("cache", self.configure(case.ours))

    def call(self, *arguments: object, threads: int | None = None) -> str:
        return run([self.program, *arguments], self.folder, threads or self.threads).output

    def configure(self, side: Program) -> Path:
        """A configuration file with everything that is not a matter of a single run."""
        path = self.folder / f"{self.name}-{side.image_cache}-{side.speech_cache}.toml"
        if not path.exists():
            changes = {
                **self.case.overrides,
                "encoders.image.cache": side.image_cache,
                "encoders.speech.cache": side.speech_cache,
                "train.eval_every": 100_000,
                "train.checkpoint_every": 100_000,
                "log.every": 1,
            }
            if side.uses_disk:
                changes["data.cache_dir"] = self.folder / "features"
            options = [f"--set={key}={value}" for key, value in changes.items()]
            path.write_text(self.call("train", "--config", self.case.config, *options, "--print-config"))
        return path

    def measure(self, side: Program | PyTorch) -> Measurement:
        return self.measure_program(side) if isinstance(side, Program) else self.measure_pytorch(side)

    def measure_program(self, side: Program) -> Measurement:
        threads = side.threads or self.threads
        # As many batches ahead as DataLoader reads with its defaults.
        ahead = 2 * threads
        self.runs += 1
        run_name = f"run-{self.runs}"
        changes = {
            "train.steps": WARM_UP + self.steps + (ahead if self.case.reads else 0),
            "data.workers": threads,
            "data.prefetch": ahead,
        }
        options = [f"--set={key}={value}" for key, value in changes.items()]
        options += ["--name", run_name, "--output", self.folder / "runs", "--device", "cpu", "--nproc", side.processes]
        ended = run([self.program, "train", "--config", self.configure(side), *options], self.folder, threads)
        written = self.folder / "runs" / run_name
        records = [json.loads(line) for line in (written / "metrics.jsonl").read_text().splitlines()]
        records = [record for record in records if record["kind"] == "train"][: WARM_UP + self.steps]
        shutil.rmtree(written)
        seconds = [after["time"] - before["time"] for before, after in pairwise(records[WARM_UP - 1 :])]
        size, seed = self.values["train.batch_size"], self.values["train.seed"]
        batches = list(islice(self.split.batches(size, seed), WARM_UP, WARM_UP + self.steps))
        waited = sum(record["data_wait"] * size / record["samples_per_second"] for record in records[WARM_UP:])
        return Measurement(
            samples_per_second=size * self.steps / sum(seconds),
            step_seconds=seconds,
            data_wait=waited / sum(seconds),
            padding=padding_of_program(self.split, batches, self.values, side.processes),
            peak_bytes=ended.peak_bytes,
            loss=records[-1]["loss"],
        )

    def measure_pytorch(self, side: PyTorch) -> Measurement:
        memory = [] if side.memory == "none" else [f"--{side.memory}-features", "memory"]
        return Measurement(**self.python("pytorch_loop.py", "--steps", self.steps, *memory))

    def measure_limit(self, limit: Limit) -> list[float]:
        """Seconds of the frozen forwards of each timed batch."""
        return self.python("limit.py", "--steps", self.steps, *(["--images"] if limit.images else []))["step_seconds"]

    def python(self, script: str, *arguments: object) -> dict:
        """What a script of this folder, run with PyTorch, prints as JSON."""
        if not PYTHON.exists():
            raise Failed(f"no {PYTHON}: run scripts/setup --exporters first")
        places = ["--settings", self.settings, "--manifest", self.manifest, "--threads", self.threads]
        return json.loads(run([PYTHON, BENCH / script, *places, *arguments], self.folder, self.threads).output)


def as_json(measurement: Measurement) -> dict:
    return asdict(measurement)
