"""A training that may be killed, and the process that carries it on."""

import json
import os
import random
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from killing.remains import Failure, metrics

# A kill inside a save waits for one of the next so many saves, the nearer the likelier.
SAVES_AHEAD = 5
# What it waits for then, and how many seconds later it strikes at most: what is saved has appeared beside its place, or it has taken its
# place (or what was saved at the same step before begins to go).
INSIDE = (("begun", 0), ("begun", 0.003), ("begun", 0.02), ("placed", 0), ("placed", 0.003))
# Seconds after which a process hangs.
PATIENCE = 120


def listing(folder: str) -> list[str]:
    """Names in a folder; none if it is gone."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


@dataclass
class Run:
    """A training that may be killed and gone on with."""

    world: Path
    program: Path
    name: str
    processes: int
    starts: int = 0
    restarts: int = 0  # starts from scratch but for the first
    seen: int = 0  # the newest step that ever had a whole checkpoint
    steps: set[int] = field(default_factory=set)  # those that have one now
    # What a save is, or was, working on: .step-000012.tmp, step-000012/.state.json.tmp.
    saving: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path = self.world / "runs" / self.name
        self.checkpoints = f"{self.path}/checkpoints"

    def look(self) -> None:
        """Notes which checkpoints there are."""
        self.steps, self.saving = set(), []
        for name in listing(self.checkpoints):
            if name.startswith("."):
                self.saving.append(name)
            elif name.startswith("step-"):
                inside = listing(f"{self.checkpoints}/{name}")
                if "state.json" in inside:
                    self.steps.add(int(name.removeprefix("step-")))
                self.saving += [f"{name}/{file}" for file in inside if file.startswith(".")]
        self.seen = max(self.seen, *self.steps, 0)


class Attempt:
    """One process, or launcher with its ranks, that carries a run on."""

    def __init__(self, run: Run):
        run.look()
        self.run, self.before, self.stale = run, run.seen, set(run.saving)
        self.began = time.time()
        run.restarts += run.starts > 0 and self.before == 0
        run.starts += 1
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("RUST_LOG", None)
        self.process = subprocess.Popen(
            [run.program, "train", "--resume-or-start", "--name", run.name, "--config", "tiny.toml", "--nproc", str(run.processes)],
            cwd=run.world, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def is_over(self) -> bool:
        """Whether the process has ended; hanging is a failure."""
        if time.time() - self.began > PATIENCE:
            raise Failure(f"it was still running after {PATIENCE} seconds")
        return self.process.poll() is not None

    def save_under_way(self) -> str | None:
        """What a save is working on; what an earlier kill left behind does not count."""
        self.run.look()
        self.stale &= set(self.run.saving)
        return next((name for name in self.run.saving if name not in self.stale or self.writes(name)), None)

    def writes(self, name: str) -> bool:
        """Whether this process has written what bears the name of something left behind, or a file in it."""
        path = f"{self.run.checkpoints}/{name}"
        files = [f"{path}/{file}" for file in listing(path)] if os.path.isdir(path) else [path]
        try:
            return any(os.stat(file).st_mtime > self.began for file in files)
        except FileNotFoundError:
            return False

    def wait_until(self, moment: float) -> bool:
        """Waits for a time of the monotonic clock; false when the process ends before it."""
        while time.monotonic() < moment:
            if self.is_over():
                return False
            self.run.look()
            time.sleep(0.002)
        return not self.is_over()

    def wait_for_save(self, draw: random.Random) -> tuple[bool, bool]:
        """Waits for a moment inside a save without ever sleeping: whether it came, and whether the step had been saved before."""
        for left in reversed(range(min(draw.randint(1, SAVES_AHEAD) for _ in range(2)))):
            while (name := self.save_under_way()) is None:
                if self.is_over():
                    return False, False
            if left == 0:
                break
            while self.save_under_way() is not None:
                if self.is_over():
                    return False, False
        named = re.search(r"step-(\d+)", name)
        step = int(named[1]) if named else 0
        again = step in self.run.steps
        moment, longest = draw.choice(INSIDE)
        while moment == "placed" and self.save_under_way() is not None and not self.is_over():
            if again and step not in self.run.steps:
                break
        end = time.perf_counter() + draw.uniform(0, longest)
        while time.perf_counter() < end:
            pass
        return not self.is_over(), again

    def signal(self, name: str) -> None:
        """Sends a signal to the whole group of processes, as Ctrl-C does."""
        os.killpg(self.process.pid, signal.Signals[f"SIG{name}"])

    def end(self, how: str = "undisturbed") -> tuple[int, str]:
        """The exit status and what was said; all processes that share standard error are gone then."""
        try:
            said = self.process.communicate(timeout=PATIENCE)[1]
        except subprocess.TimeoutExpired:
            raise Failure(f"it was still running {PATIENCE} seconds later") from None
        self.run.look()
        with open(self.run.world / f"{self.run.name}.log", "a") as log:
            log.write(f"--- {how}: status {self.process.returncode}\n{said}")
        return self.process.returncode, said

    def made(self) -> list[int]:
        """Steps that this process has made."""
        return [line["step"] for line in metrics(self.run.path) if line["kind"] == "train" and line["time"] > self.began]

    def clear_away(self) -> None:
        """Kills what may be left of the process."""
        if self.process.poll() is None:
            self.signal("KILL")
            self.process.wait()


def check(attempt: Attempt, status: int, said: str, sent: str | None) -> bool:
    """Whether the run is finished; fails when the process lost something, or did not end as it has to."""
    made, before, last_line = attempt.made(), attempt.before, (said.splitlines() or ["nothing"])[-1]
    told = re.search(r"after step (\d+)", said)
    if told and int(told[1]) < before:
        raise Failure(f"it went on after step {told[1]}, although step {before} had a whole checkpoint")
    if made and made[0] <= before:
        raise Failure(f"it made step {made[0]} again, although step {before} had a whole checkpoint")
    if status == 0:
        if before and not told:
            raise Failure("it does not say after which step it went on")
        return True
    if sent is None:
        raise Failure(f"it ended with status {status} and said: {last_line}")
    number = signal.Signals[f"SIG{sent}"].value
    # Before the first step the program may not yet listen to signals.
    if status != (-number if sent == "KILL" else 128 + number) and (made or status != -number):
        raise Failure(f"after SIG{sent} it ended with status {status} and said: {last_line}")
    if sent != "KILL" and made:
        file = attempt.run.path / "last/state.json"
        saved = json.loads(file.read_text())["step"] if file.exists() else 0
        if saved < made[-1]:
            raise Failure(f"after SIG{sent} the last checkpoint is of step {saved}, although step {made[-1]} was made")
    return False
