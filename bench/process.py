"""A child process, measured."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Ends of a log that an error shows.
LINES = 8


class Failed(Exception):
    """Something could not run."""


@dataclass(frozen=True)
class Ended:
    output: str
    peak_bytes: int  # of the process, or of the largest one that it waited for


def run(command: list[object], folder: Path, threads: int) -> Ended:
    """Runs `command` in `folder` with `threads` threads, on the CPU; what it says on standard error is kept in a file there."""
    words, log = [str(word) for word in command], folder / "log.txt"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    for name in ("RUST_LOG", "MKL_NUM_THREADS"):
        environment.pop(name, None)
    with log.open("w") as said:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True
        )
        try:
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.terminate()
                process.wait()
            process.stdout.close()
    if process.returncode != 0:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-LINES:])
        raise Failed(f"{' '.join(words)}\nended with status {process.returncode}:\n{end}")
    return Ended(output, usage.ru_maxrss * 1024)
