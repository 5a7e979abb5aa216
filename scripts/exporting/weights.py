"""Filling a module from a checkpoint: every tensor used once, every parameter filled, shapes equal."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from .checkpoint import Checkpoint, listed
from .errors import ExportError

Table = dict[str, tuple[str, ...]]
"""Our parameters -> the source's, their rows one under the other. `{i}` is the index of a layer, `{leaf}` weight or bias."""


def source_names(table: Table, name: str) -> list[str]:
    """What the source calls our parameter `name`."""
    if name in table:
        return list(table[name])
    stem, leaf = name.rsplit(".", 1)
    index = re.search(r"\.(\d+)\.", stem + ".")
    layer = index.group(1) if index else ""
    key = re.sub(r"\.\d+(?=\.|$)", ".{i}", stem)
    return [template.format(i=layer, leaf=leaf) for template in table[key]]


def fill(
    module: nn.Module, checkpoint: Checkpoint, table: Table, ignored: tuple[str, ...], transposed: tuple[str, ...] = (),
) -> None:
    """Copies the checkpoint's tensors into the module. `ignored`: names, or beginnings of names that end with a point, of parts
    that are not used; `transposed`: tensors stored as [in, out]."""
    left = dict(checkpoint.tensors)
    missing, wrong = [], []
    for name, parameter in module.state_dict().items():
        names = source_names(table, name)
        missing += [part for part in names if part not in left]
        parts = [left.pop(part) for part in names if part in left]
        shape = [parameter.shape[0] // len(names), *parameter.shape[1:]]
        for part, tensor in zip(names, parts):
            needed = shape[::-1] if part in transposed else shape
            if len(parts) == len(names) and list(tensor.shape) != needed:
                wrong.append(f"{part} has shape {list(tensor.shape)} where {needed} is needed")
            elif not tensor.is_floating_point():
                wrong.append(f"{part} is {tensor.dtype} where floating point is needed")
        if len(parts) < len(names) or wrong:
            continue
        parts = [tensor.T if part in transposed else tensor for part, tensor in zip(names, parts)]
        with torch.no_grad():
            parameter.copy_(torch.cat(parts) if len(parts) > 1 else parts[0])
        if not parameter.isfinite().all():
            wrong.append(f"{listed(names)} holds NaN or infinite values")
    extra = [name for name in left if not _is_ignored(name, ignored)]
    problems = [
        *([f"lacks {listed(sorted(missing))}"] if missing else []),
        *([f"holds {listed(sorted(extra))}, which this model does not have"] if extra else []),
        *([listed(wrong, 3)] if wrong else []),
    ]
    if problems:
        raise ExportError(f"{checkpoint.path}: {'; '.join(problems)}; is this the right model, and its own configuration?")


def _is_ignored(name: str, ignored: tuple[str, ...]) -> bool:
    return any(name == entry or (entry.endswith(".") and name.startswith(entry)) for entry in ignored)


def ignored_names(checkpoint: Checkpoint, ignored: tuple[str, ...]) -> list[str]:
    """The tensors of the checkpoint that are of parts not used."""
    return sorted(name for name in checkpoint.tensors if _is_ignored(name, ignored))


def fold_weight_norm(checkpoint: Checkpoint, stem: str) -> None:
    """Replaces g [1, 1, K] and v [out, in, K] of a convolution normalised over its first two axes, in either spelling of
    PyTorch's, by the weight v g / |v|."""
    tensors = checkpoint.tensors
    spellings = [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")]
    found = [pair for pair in spellings if any(f"{stem}.{name}" in tensors for name in pair)]
    if len(found) > 1:
        raise ExportError(f"{checkpoint.path}: holds {stem} in both spellings of weight norm; keep one")
    for pair in found:
        names = [f"{stem}.{name}" for name in pair]
        absent = [name for name in names if name not in tensors]
        if absent:
            raise ExportError(f"{checkpoint.path}: lacks {listed(absent)}, the other half of a weight norm; download it again")
        if f"{stem}.weight" in tensors:
            raise ExportError(f"{checkpoint.path}: holds {stem}.weight beside its weight norm; keep one")
        g, v = (tensors[name].float() for name in names)
        if v.dim() != 3 or list(g.shape) != [1, 1, v.shape[-1]]:
            raise ExportError(
                f"{checkpoint.path}: {names[0]} has shape {list(g.shape)} beside {names[1]} {list(v.shape)} "
                "where [1, 1, K] and [out, in, K] are needed; download it again"
            )
        for name in names:
            del tensors[name]
        tensors[f"{stem}.weight"] = v * (g / v.norm(dim=(0, 1), keepdim=True))


def randomise(module: nn.Module, seed: int) -> None:
    """Random weights that keep the size of what passes through: matrices by their inputs, norms near one, small biases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(generator=generator)
            if parameter.dim() > 1:
                parameter.mul_(1 / math.sqrt(parameter[0].numel()))
            else:
                parameter.mul_(0.1)
                if re.search(r"norm\d?\.weight$", name):
                    parameter.add_(1.0)


def source_state(module: nn.Module, table: Table) -> dict[str, Tensor]:
    """The module's parameters (views) under the names of `table`."""
    state = {}
    for name, parameter in module.state_dict().items():
        names = source_names(table, name)
        state.update(zip(names, parameter.chunk(len(names))))
    return state
