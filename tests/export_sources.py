"""What the tests of the exporters share: random, tiny sources in each format's own layout and names, and how to export."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tempfile
import unittest
import warnings
from collections import OrderedDict
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

try:
    import torch
    from safetensors.torch import save_file
    from torch import nn

    import export_clip
    import export_hubert
    from exporting import verify
    from exporting.errors import ExportError

    torch.set_num_threads(1)
    NO_TORCH = ""
except (ImportError, OSError, SystemExit) as error:
    NO_TORCH = f"torch or safetensors cannot be imported here ({error}): pip install -r scripts/export_requirements.txt"
try:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    NO_TRANSFORMERS = ""
except ImportError as error:
    NO_TRANSFORMERS = f"transformers cannot be imported here ({error}): pip install -r scripts/export_requirements.txt"

HUBERT = {
    "model_type": "hubert", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}
LARGE_STYLE = {**HUBERT, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
BASE_STYLE = {**HUBERT, "feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
CLIP_VISION = {
    "model_type": "clip_vision_model", "hidden_size": 128, "intermediate_size": 96, "projection_dim": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 42, "patch_size": 14, "hidden_act": "quick_gelu",
}
SIGLIP_VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "image_size": 44, "patch_size": 14,
}
OPENAI_PICTURES = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3,
    "do_center_crop": True, "crop_size": 42, "size": 42,
}
SIGLIP_PICTURES = {
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "rescale_factor": 0.00392156862745098,
    "size": {"height": 44, "width": 44},
}
OLD = ("weight_g", "weight_v")
NEW = ("parametrizations.weight.original0", "parametrizations.weight.original1")


def draw(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.15 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for name, shape in shapes.items()
    }


def hubert_state(config: dict, spelling: tuple[str, str] = OLD, prefix: str = "") -> dict:
    """Weights under transformers' names."""
    width, inner, group = config["hidden_size"], config["intermediate_size"], config["num_conv_pos_embedding_groups"]
    kernel, shapes, inputs = config["num_conv_pos_embeddings"], {}, 1
    for index, (channels, size) in enumerate(zip(config["conv_dim"], (10, 3, 3, 3, 3, 2, 2))):
        stem = f"feature_extractor.conv_layers.{index}"
        shapes[f"{stem}.conv.weight"] = (channels, inputs, size)
        if config["conv_bias"]:
            shapes[f"{stem}.conv.bias"] = (channels,)
        if config["feat_extract_norm"] == "layer" or index == 0:
            shapes |= {f"{stem}.layer_norm.{leaf}": (channels,) for leaf in ("weight", "bias")}
        inputs = channels
    linear = {"feature_projection.projection": (width, inputs)}
    norms = {"feature_projection.layer_norm": inputs, "encoder.layer_norm": width}
    for index in range(config["num_hidden_layers"]):
        stem = f"encoder.layers.{index}"
        linear |= {f"{stem}.attention.{part}_proj": (width, width) for part in ("k", "v", "q", "out")}
        linear |= {f"{stem}.feed_forward.intermediate_dense": (inner, width), f"{stem}.feed_forward.output_dense": (width, inner)}
        norms |= {f"{stem}.layer_norm": width, f"{stem}.final_layer_norm": width}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes |= {f"{name}.{leaf}": (size,) for name, size in norms.items() for leaf in ("weight", "bias")}
    stem = "encoder.pos_conv_embed.conv"
    shapes |= {f"{stem}.bias": (width,), f"{stem}.{spelling[0]}": (1, 1, kernel)}
    shapes[f"{stem}.{spelling[1]}"] = (width, width // group, kernel)
    shapes["masked_spec_embed"] = (width,)
    return {prefix + name: tensor for name, tensor in draw(shapes).items()}


def fairseq_state(state: dict, group_norm: bool) -> dict:
    """The same under fairseq's names."""
    norm = "2" if group_norm else "2.1"
    rules = [
        (r"conv_layers\.(\d+)\.conv", r"conv_layers.\1.0"), (r"conv_layers\.(\d+)\.layer_norm", rf"conv_layers.\1.{norm}"),
        (r"feature_projection\.layer_norm", "layer_norm"), (r"feature_projection\.projection", "post_extract_proj"),
        (r"encoder\.pos_conv_embed\.conv", "encoder.pos_conv.0"), (r"(layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm"),
        (r"\.attention\.", ".self_attn."), (r"feed_forward\.intermediate_dense", "fc1"), (r"feed_forward\.output_dense", "fc2"),
        (r"^masked_spec_embed$", "mask_emb"),
    ]
    renamed = {}
    for name, tensor in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    head = {"label_embs_concat": (5, 8), "final_proj.weight": (8, 48), "final_proj.bias": (8,)}
    return {**renamed, **{name: torch.zeros(shape) for name, shape in head.items()}}


def fairseq_config(config: dict, normalize: bool) -> dict:
    return {
        "model": {
            "_name": "hubert", "encoder_layers": config["num_hidden_layers"], "encoder_embed_dim": config["hidden_size"],
            "encoder_ffn_embed_dim": config["intermediate_size"], "encoder_attention_heads": config["num_attention_heads"],
            "activation_fn": "gelu", "extractor_mode": "layer_norm" if config["feat_extract_norm"] == "layer" else "default",
            "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2", "conv_bias": config["conv_bias"],
            "layer_norm_first": config["do_stable_layer_norm"], "conv_pos": 16, "conv_pos_groups": 4,
        },
        "task": {"_name": "hubert_pretraining", "normalize": normalize, "sample_rate": 16000},
    }


def layers(stem: str, config: dict, linear: dict, norms: list) -> dict[str, tuple[int, ...]]:
    """Shapes of a vision transformer's layers below `stem`, behind those of `linear` and `norms`."""
    width, inner, linear, norms = config["hidden_size"], config["intermediate_size"], dict(linear), list(norms)
    for index in range(config["num_hidden_layers"]):
        layer = f"{stem}.{index}"
        linear |= {f"{layer}.self_attn.{part}_proj": (width, width) for part in ("k", "v", "q", "out")}
        linear |= {f"{layer}.mlp.fc1": (inner, width), f"{layer}.mlp.fc2": (width, inner)}
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
    shapes = {}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes | {f"{name}.{leaf}": (width,) for name in norms for leaf in ("weight", "bias")}


def clip_state(config: dict) -> dict:
    """Weights under transformers' names, text tower included."""
    width, patch = config["hidden_size"], config["patch_size"]
    shapes = {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": (1 + (config["image_size"] // patch) ** 2, width),
        "visual_projection.weight": (config["projection_dim"], width),
        "text_model.final_layer_norm.weight": (8,), "text_projection.weight": (config["projection_dim"], 8), "logit_scale": (),
    }
    norms = ["vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    shapes |= layers("vision_model.encoder.layers", config, {}, norms)
    return draw(shapes)


def openai_state(state: dict) -> dict:
    """The same under OpenAI's names."""
    renamed = {
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": torch.zeros(5, 8), "positional_embedding": torch.zeros(7, 8), "logit_scale": torch.tensor(1.0),
        "transformer.resblocks.0.ln_1.weight": torch.ones(8), "ln_final.weight": torch.ones(8),
        "text_projection": torch.zeros(8, 24),
        "input_resolution": torch.tensor(42), "context_length": torch.tensor(7), "vocab_size": torch.tensor(5),
    }
    for leaf in ("weight", "bias"):
        renamed[f"visual.ln_pre.{leaf}"] = state[f"vision_model.pre_layrnorm.{leaf}"]
        renamed[f"visual.ln_post.{leaf}"] = state[f"vision_model.post_layernorm.{leaf}"]
    layers = openai_layers(state, "vision_model.encoder.layers", "visual.transformer.resblocks", CLIP_VISION["num_hidden_layers"])
    return {**renamed, **layers}


def openai_layers(state: dict, theirs: str, ours: str, count: int) -> dict:
    """The layers of a tower under OpenAI's names, below `ours`."""
    renamed = {}
    for old, new in ((f"{theirs}.{index}", f"{ours}.{index}") for index in range(count)):
        for leaf in ("weight", "bias"):
            renamed[f"{new}.attn.in_proj_{leaf}"] = torch.cat([state[f"{old}.self_attn.{part}_proj.{leaf}"] for part in "qkv"])
            for one, other in (
                ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
            ):
                renamed[f"{new}.{other}.{leaf}"] = state[f"{old}.{one}.{leaf}"]
    return renamed


def siglip_state(config: dict) -> dict:
    """Weights under transformers' names, text tower included."""
    width, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    shapes = {
        "embeddings.patch_embedding.weight": (width, 3, patch, patch), "embeddings.patch_embedding.bias": (width,),
        "embeddings.position_embedding.weight": ((config["image_size"] // patch) ** 2, width), "head.probe": (1, 1, width),
        "head.attention.in_proj_weight": (3 * width, width), "head.attention.in_proj_bias": (3 * width,),
    }
    linear = {"head.attention.out_proj": (width, width), "head.mlp.fc1": (inner, width), "head.mlp.fc2": (width, inner)}
    shapes |= layers("encoder.layers", config, linear, ["post_layernorm", "head.layernorm"])
    shapes = {f"vision_model.{name}": shape for name, shape in shapes.items()}
    return draw({**shapes, "text_model.head.weight": (8, 8), "logit_scale": (1,), "logit_bias": (1,)})


def archive(tensors: dict, activation: str | None = "quick_gelu") -> torch.jit.ScriptModule:
    """A TorchScript archive whose state_dict is `tensors`, as OpenAI publishes its weights; None: without the code of its tower."""
    root = hang(openai_tower(activation) if activation else nn.Module(), tensors)
    if activation is None:
        return torch.jit.script(root)
    pixels = torch.zeros(1, 3, 42, 42, dtype=tensors["visual.proj"].dtype)
    return torch.jit.trace_module(root.eval(), {"encode_image": pixels})


def hang(root: nn.Module, tensors: dict) -> nn.Module:
    """`root` with `tensors` at the places that their names say."""
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        place = root
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        if tensor.is_floating_point():
            setattr(place, leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            place.register_buffer(leaf, tensor)
    return root


def openai_transformer(config: dict, activation: str, mask: torch.Tensor | None = None) -> nn.Module:
    """OpenAI's Transformer (clip/model.py) [T, B, D] -> [T, B, D] of the sizes of `config`, weights to come."""
    width, inner = config["hidden_size"], config["intermediate_size"]

    class Gate(nn.Module):
        """QuickGELU with its factor of 1.702, Swish with 1."""

        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return x * torch.sigmoid(self.factor * x)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(width, config["num_attention_heads"])
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            middle = {"quick_gelu": Gate(1.702), "gelu": nn.GELU(), "swish": Gate(1.0)}[activation]
            parts = (nn.Linear(width, inner), middle, nn.Linear(inner, width))
            self.mlp = nn.Sequential(OrderedDict(zip(("c_fc", "gelu", "c_proj"), parts)))

        def forward(self, x):
            y = self.ln_1(x)
            x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
            return x + self.mlp(self.ln_2(x))

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resblocks = nn.Sequential(*[Block() for _ in range(config["num_hidden_layers"])])

        def forward(self, x):
            return self.resblocks(x)

    return Transformer()


def openai_tower(activation: str) -> nn.Module:
    """OpenAI's ViT (clip/model.py) of the sizes of CLIP_VISION, weights to come; `encode_image` as its archives have it."""
    width = CLIP_VISION["hidden_size"]

    class Visual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, CLIP_VISION["patch_size"], CLIP_VISION["patch_size"], bias=False)
            self.transformer = openai_transformer(CLIP_VISION, activation)
            self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)

        def forward(self, x):
            x = self.conv1(x).flatten(2).permute(0, 2, 1)
            cls = self.class_embedding + torch.zeros(x.shape[0], 1, width, dtype=x.dtype)
            x = self.ln_pre(torch.cat([cls, x], 1) + self.positional_embedding)
            x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
            return self.ln_post(x[:, 0]) @ self.proj

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = Visual()

        def encode_image(self, x):
            return self.visual(x)

    return Tower()


def write_folder(
    folder: Path, config: dict, tensors: dict, form: str = "safetensors", shards: int = 1, preprocessor: dict | None = None,
) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    stem, ending = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
    names, weight_map = list(tensors), {}
    for shard in range(shards):
        file = f"{stem}.{ending}" if shards == 1 else f"{stem}-{shard + 1:05}-of-{shards:05}.{ending}"
        part = {name: tensors[name].contiguous() for name in names[shard::shards]}
        weight_map |= dict.fromkeys(part, file)
        if form == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
    if shards > 1:
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def export(script, *arguments: object) -> str:
    """Runs an exporter; what it printed."""
    printed = io.StringIO()
    argv = [script.__name__, *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), redirect_stdout(printed), torch.no_grad(), torch.jit.optimized_execution(False):
        script.main()
    return printed.getvalue()


def waves() -> list:
    return verify.speech_waves(400, 320)


@unittest.skipIf(NO_TORCH, NO_TORCH)
class Exporting(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        quiet = warnings.catch_warnings()
        quiet.__enter__()
        self.addCleanup(quiet.__exit__, None, None, None)
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        self.folder = Path(folder.name)
        self.out = self.folder / "encoder.pt"

    def assert_refused(self, script, arguments: list, *parts: str, kind: type | None = None) -> None:
        with self.assertRaises(kind or ExportError) as refused:
            export(script, *arguments, "--out", self.out)
        text = str(refused.exception)
        self.assertNotIn("\n", text)
        for part in parts:
            self.assertIn(part, text)
        self.assertEqual([path.name for path in self.folder.iterdir() if "encoder.pt" in path.name], [])

    def states(self, path: Path | None = None) -> list:
        """Hidden states of each utterance by the exported file."""
        return verify.speech_alone(torch.jit.load(str(path or self.out)), waves())

    def assert_near(self, ours: list, others: list, tolerance: float = 1e-5) -> None:
        self.assertEqual([tensor.shape for tensor in ours], [tensor.shape for tensor in others])
        worst = max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in zip(ours, others))
        self.assertLess(worst, tolerance)
