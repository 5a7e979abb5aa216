"""What a run leaves behind, and whether it equals what another one left."""

import json
import os
import struct
from pathlib import Path

# What two runs cannot have in common: times, and hashes of files whose metadata may be in another order.
TIMES = ("time", "samples_per_second", "data_wait")
HASHES = ("files",)


class Failure(Exception):
    """Something was lost, or the program did not do what it has to."""


def tensors(path: Path) -> dict:
    """Metadata, and type, shape and bytes of every tensor of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    found = {"its metadata": header.pop("__metadata__", None)}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        found[name] = (entry["dtype"], entry["shape"], body[begin:end])
    return found


def state(path: Path) -> dict:
    """state.json without what two runs cannot have in common."""
    return without(json.loads(path.read_text()), HASHES)


def metrics(run: Path) -> list[dict]:
    """Lines of metrics.jsonl; one that was cut off ends them."""
    lines = []
    try:
        for line in (run / "metrics.jsonl").read_text().splitlines():
            lines.append(json.loads(line))
    except (FileNotFoundError, json.JSONDecodeError):
        pass
    return lines


def without(entries: dict, keys: tuple[str, ...]) -> dict:
    """A copy that lacks `keys`."""
    return {key: value for key, value in entries.items() if key not in keys}


def differing(ours: dict, theirs: dict) -> str:
    """The first keys that differ, with their values where these are short."""
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    said = [f"{key} {values}" if len(values := f"{ours.get(key)}, not {theirs.get(key)}") < 100 else key for key in keys[:3]]
    return ", ".join(said) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def compare(run: Path, straight: Path) -> None:
    """Fails on the first difference between the ends of two runs."""
    for place in ("last", "best"):
        for name, read in (("state.json", state), ("model.safetensors", tensors), ("optimizer.safetensors", tensors)):
            file = f"{place}/{name}"
            if not (run / file).exists():
                target = os.readlink(run / place) if (run / place).is_symlink() else "missing"
                raise Failure(f"the finished run has no {file}; {place} is {target}")
            try:
                ours, theirs = read(run / file), read(straight / file)
            except (ValueError, KeyError, struct.error) as error:
                raise Failure(f"{file} is damaged: {error!r}") from None
            if ours != theirs:
                raise Failure(f"{file} differs from the straight run's: {differing(ours, theirs)}")
    text = (run / "metrics.jsonl").read_text()
    if not text.endswith("\n") or len(text.splitlines()) != len(metrics(run)):
        raise Failure("metrics.jsonl holds a line that is not whole")
    ours, theirs = metrics(run), metrics(straight)
    for number, pair in enumerate(zip(ours, theirs), 1):
        our, their = (without(line, TIMES) for line in pair)
        if our != their:
            raise Failure(f"metrics.jsonl, line {number} differs from the straight run's: {differing(our, their)}")
    if len(ours) != len(theirs):
        raise Failure(f"metrics.jsonl has {len(ours)} lines, the straight run's {len(theirs)}")
