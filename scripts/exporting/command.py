"""What both command lines share."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Callable

import torch
from torch import nn

from .checkpoint import Checkpoint
from .errors import ExportError
from .weights import ignored_names

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def parser(description: str, configs: dict) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = result.add_mutually_exclusive_group(required=True)
    source.add_argument("--source", type=Path, metavar="PATH", help="the checkpoint: a Hugging Face folder or a .pt file")
    source.add_argument("--random", action="store_true", help="random weights, named so in the file, of the sizes of --config")
    result.add_argument("--config", choices=list(configs), help="sizes for --random")
    result.add_argument("--seed", type=int, default=0, help="seed for --random (default 0)")
    result.add_argument("--dtype", choices=list(DTYPES), default="f32", help="of the parameters in the file (default f32)")
    result.add_argument("--name", help="the encoder's name in its spec (default: the source's, or the config's)")
    result.add_argument("--out", type=Path, required=True, metavar="FILE", help="the TorchScript file to write")
    return result


def check_arguments(arguments: argparse.Namespace, configs: dict) -> None:
    if arguments.random and arguments.config is None:
        raise ExportError(f"--random: needs --config, one of {', '.join(configs)}")
    if arguments.source is not None and arguments.config is not None:
        raise ExportError("--config: goes with --random; a checkpoint brings its own sizes")
    if not 0 <= arguments.seed < 1 << 63:
        raise ExportError(f"--seed {arguments.seed}: must be from 0 to 2^63 - 1")


def say(line: str) -> None:
    print(line, flush=True)


def say_loaded(checkpoint: Checkpoint, ignored: tuple[str, ...], model: nn.Module) -> None:
    left = ignored_names(checkpoint, ignored)
    kept = len(checkpoint.tensors) - len(left)
    used_elsewhere = sorted({name.split(".")[0] if name.count(".") > 1 else name for name in left})
    say(f"  {kept} tensors used, {parameters(model)} parameters filled" + (
        f"; {len(left)} of parts not needed: {', '.join(used_elsewhere)}" if left else ""
    ))


def parameters(model: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()):,}"


def say_written(path: Path, started: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024)
    say(f"wrote {path}: {path.stat().st_size / 1e6:,.1f} MB, {time.monotonic() - started:.0f} s, peak memory {peak:,.0f} MiB")


def run(main: Callable[[], None]) -> None:
    """Runs `main`; an error is one line and an exit status: 2 wrong source or use, 1 failed, 130 interrupted."""
    try:
        with torch.no_grad(), torch.jit.optimized_execution(False):
            main()
    except ExportError as error:
        _leave(str(error), error.status)
    except OSError as error:
        _leave(f"{error.filename or 'a file'}: {error.strerror or error}", 2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        _leave("out of memory; nothing was written: use a machine with more, or a smaller model", 1)
    except KeyboardInterrupt:
        _leave("interrupted; nothing was written", 130)


def _leave(line: str, status: int) -> None:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(status)
