"""The TorchScript file: there whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import torch
from torch import nn

from .checkpoint import first_line
from .errors import ExportError, ExportFailed


def prepare(path: Path) -> None:
    """Finds out whether `path` can be written, before the work."""
    if path.is_dir():
        raise ExportError(f"{path}: is a folder; --out must name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{path.parent}: cannot be made ({error.strerror}); --out must name a file in one that can") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ExportError(f"{path.parent}: cannot be written to; --out must name a file in one that can")


def write(script: torch.jit.ScriptModule, path: Path, check: Callable[[nn.Module], None]) -> None:
    """Saves beside `path`, reads that back, has it checked, renames it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            script.save(str(beside))
            with beside.open("rb") as file:
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            raise ExportFailed(f"{path}: cannot be written ({first_line(error)}); is the disk full?") from error
        check(torch.jit.load(str(beside), map_location="cpu").eval())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
