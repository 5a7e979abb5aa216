"""Published checkpoints as named tensors: Hugging Face folders, fairseq `.pt`, OpenAI's CLIP archives, bare state dicts.

Pickles are read with `weights_only=True`; where that refuses a file because objects of other classes lie beside its tensors
(fairseq keeps its configuration and dictionaries there), with an unpickler that puts an inert record in place of each of them.
No code of a file is run.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import ExportError


@dataclass
class Checkpoint:
    """Tensors by the names their source gives them, and the configuration that came with them."""

    form: str
    """"huggingface", "fairseq", "openai" (a TorchScript archive, as OpenAI publishes) or "state dict"."""
    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    preprocessor: dict[str, Any] = field(default_factory=dict)
    preprocessor_file: str = "preprocessor_config.json"
    activation: str | None = None
    """What the code of an archive computes between the linear layers of its image tower."""
    text_activation: str | None = None
    """The same of its text tower."""

    @property
    def source(self) -> str:
        """Where the weights come from, without the folders of this machine."""
        return f"{self.path.resolve().name} ({self.form})"


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, whatever its format."""
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise ExportError(f"{path}: no such file or folder; --source must name a checkpoint")
    if path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json"):
        raise ExportError(f"{path}: give the folder that holds it, so that its config.json is read too")
    if _is_torchscript(path):
        return _read_torchscript(path)
    content = _unpickle(path)
    if not isinstance(content, dict):
        raise ExportError(f"{path}: holds no dictionary of tensors; --source must name a checkpoint with weights")
    config = _fairseq_config(content)
    if config is not None:
        return Checkpoint("fairseq", path, _tensors(content.get("model"), path), config)
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    return Checkpoint("state dict", path, _tensors(content, path))


def _read_folder(folder: Path) -> Checkpoint:
    config = _read_json(folder / "config.json", "a Hugging Face folder holds one")
    preprocessor, file = _preprocessor(folder)
    return Checkpoint("huggingface", folder, _folder_tensors(folder), config, preprocessor, file)


def _preprocessor(folder: Path) -> tuple[dict[str, Any], str]:
    """Of `preprocessor_config.json`, or of the file in which transformers 5 puts all of a model's processors, and the file's name;
    {} without either."""
    alone, together = "preprocessor_config.json", "processor_config.json"
    if (folder / alone).exists():
        return _read_json(folder / alone, ""), alone
    if (folder / together).exists():
        content = _read_json(folder / together, "")
        for key in ("feature_extractor", "image_processor"):
            if isinstance(content.get(key), dict):
                return content[key], together
    return {}, alone


def _folder_tensors(folder: Path) -> dict[str, Tensor]:
    readers = {"model.safetensors": _read_safetensors, "pytorch_model.bin": _read_bin}
    for name, reader in readers.items():
        if (folder / name).exists():
            return reader(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            return _read_shards(index, reader)
    raise ExportError(f"{folder}: holds neither {' nor '.join(readers)}, whole or sharded; download the weights into it")


def _read_shards(index: Path, reader) -> dict[str, Tensor]:
    weight_map = _read_json(index, "").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ExportError(f"{index}: has no weight_map of tensor names to file names; download it again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise ExportError(f"{index}: names a shard outside its folder ({name}); download it again")
        for key, tensor in reader(index.with_name(name)).items():
            if key in tensors or weight_map.get(key) != name:
                raise ExportError(f"{index}: {key} in {name} is not where the index puts it; download the folder again")
            tensors[key] = tensor
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise ExportError(f"{index}: the shards lack {listed(absent)}; download the folder again")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ExportError(f"{path}: needs the package safetensors: pip install -r scripts/export_requirements.txt") from error
    try:
        return load_file(str(path))
    except Exception as error:
        raise ExportError(f"{path}: not a safetensors file ({first_line(error)}); download it again") from error


def _read_bin(path: Path) -> dict[str, Tensor]:
    return _tensors(_unpickle(path), path)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or name == "constants.pkl" for name in archive.namelist())


def _read_torchscript(path: Path) -> Checkpoint:
    try:
        script = torch.jit.load(str(path), map_location="cpu")
        activations = {"activation": _activation(script, "visual"), "text_activation": _activation(script, "transformer")}
        return Checkpoint("openai", path, dict(script.state_dict()), **activations)
    except RuntimeError as error:
        raise ExportError(f"{path}: not a TorchScript file that libtorch reads ({first_line(error)}); download it again") from error


def _activation(script: torch.jit.ScriptModule, tower: str) -> str | None:
    """What the code of a tower of `script` computes between its linear layers; None where it has no such code, or more than one."""
    try:
        # Without optimisation libtorch inlines nothing.
        with torch.jit.optimized_execution(True):
            graph = getattr(script, tower).inlined_graph
    except (AttributeError, RuntimeError):
        return None
    found = {"gelu_pytorch_tanh" if "tanh" in _constants(node) else "gelu" for node in graph.findAllNodes("aten::gelu")}
    for node in graph.findAllNodes("aten::sigmoid"):
        inner = next(node.inputs()).node()
        factors = [float(value) for value in _constants(inner) if isinstance(value, (float, Tensor))]
        quick = inner.kind() == "aten::mul" and any(abs(factor - 1.702) < 2e-3 for factor in factors)
        found.add("quick_gelu" if quick else "another")
    return found.pop() if len(found) == 1 and "another" not in found else None


def _constants(node: Any) -> list[Any]:
    """The inputs of a node of a graph that are constants."""
    values = (value.toIValue() for value in node.inputs())
    return [value for value in values if value is not None and not (isinstance(value, Tensor) and value.dim())]


def _unpickle(path: Path) -> Any:
    mapped = {"map_location": "cpu", "mmap": zipfile.is_zipfile(path)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, **mapped)
    except Exception:
        pass
    try:
        return torch.load(path, weights_only=False, pickle_module=_InertPickle, **mapped)
    except Exception as error:
        raise ExportError(f"{path}: not a PyTorch checkpoint ({first_line(error)}); download it again") from error


class Inert:
    """Stands in for an object of a class that is not admitted: keeps what it was made of, does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments = arguments
        self.state: Any = named

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


class _InertUnpickler(pickle.Unpickler):
    ADMITTED = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch", "Size"): torch.Size,
        ("builtins", "set"): set,
        ("__builtin__", "set"): set,
    }

    def find_class(self, module: str, name: str) -> Any:
        return self.ADMITTED.get((module, name), Inert)


class _InertPickle:
    """What `torch.load` asks of a pickle module."""

    Unpickler = _InertUnpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _InertUnpickler(file, **options).load()


def _fairseq_config(content: dict) -> dict[str, Any] | None:
    """fairseq's `cfg` as plain values, or its older flat `args` in the same form; None where the file is not fairseq's."""
    if isinstance(plain(content.get("cfg")), dict):
        return plain(content["cfg"])
    arguments = plain(content.get("args"))
    return {"model": arguments, "task": arguments} if isinstance(arguments, dict) else None


def plain(value: Any) -> Any:
    """Plain values out of records: OmegaConf's containers and nodes, argparse's namespaces, enums."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Inert):
        if isinstance(value.state, dict):
            for key in ("_content", "_val"):
                if key in value.state:
                    return plain(value.state[key])
            if value.state:
                return plain(value.state)
        return plain(value.arguments[0]) if len(value.arguments) == 1 else None
    return value


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not content:
        raise ExportError(f"{path}: holds no dictionary of tensors; --source must name a checkpoint with weights")
    others = sorted(str(name) for name, value in content.items() if not isinstance(value, Tensor))
    if others:
        raise ExportError(f"{path}: {listed(others)} are no tensors; --source must name a checkpoint of a published format")
    return {str(name): value.detach() for name, value in content.items()}


def _read_json(path: Path, hint: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"{path}: missing; {hint or 'download the folder again'}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path}: cannot be read as JSON ({first_line(error)}); download it again") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path}: is no JSON object; download it again")
    return content


def listed(names: list[str], most: int = 6) -> str:
    """Names in a line."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """An error in a line."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
