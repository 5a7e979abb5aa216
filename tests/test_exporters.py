"""The exporters of frozen encoders: every published format, what they refuse, and that padding and the file change nothing.

The sources are random and tiny, written here in each format's own layout and names. Needs torch (the full package); what compares
with the sources' own classes needs transformers.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import types
import unittest
import warnings
from argparse import Namespace
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

try:
    import torch
    from safetensors.torch import save_file

    import export_clip
    import export_hubert
    from exporting import clip, command, hubert, verify
    from exporting.errors import ExportError, ExportFailed

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


def clip_state(config: dict) -> dict:
    """Weights under transformers' names, text tower included."""
    width, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    shapes = {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": (1 + (config["image_size"] // patch) ** 2, width),
        "visual_projection.weight": (config["projection_dim"], width),
        "text_model.final_layer_norm.weight": (8,), "text_projection.weight": (config["projection_dim"], 8), "logit_scale": (),
    }
    linear, norms = {}, ["vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    for index in range(config["num_hidden_layers"]):
        stem = f"vision_model.encoder.layers.{index}"
        linear |= {f"{stem}.self_attn.{part}_proj": (width, width) for part in ("k", "v", "q", "out")}
        linear |= {f"{stem}.mlp.fc1": (inner, width), f"{stem}.mlp.fc2": (width, inner)}
        norms += [f"{stem}.layer_norm1", f"{stem}.layer_norm2"]
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes |= {f"{name}.{leaf}": (width,) for name in norms for leaf in ("weight", "bias")}
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
        for index in range(CLIP_VISION["num_hidden_layers"]):
            old, new = f"vision_model.encoder.layers.{index}", f"visual.transformer.resblocks.{index}"
            renamed[f"{new}.attn.in_proj_{leaf}"] = torch.cat([state[f"{old}.self_attn.{part}_proj.{leaf}"] for part in "qkv"])
            for theirs, ours in (
                ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
            ):
                renamed[f"{new}.{ours}.{leaf}"] = state[f"{old}.{theirs}.{leaf}"]
    return renamed


def archive(tensors: dict) -> torch.jit.ScriptModule:
    """A TorchScript archive whose state_dict is `tensors`, as OpenAI publishes its weights."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        place = root
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, torch.nn.Module())
            place = place.get_submodule(part)
        if tensor.is_floating_point():
            place.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
        else:
            place.register_buffer(leaf, tensor)
    return torch.jit.script(root)


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


class Hubert(Exporting):
    def test_every_format_and_spelling_gives_the_same_states(self) -> None:
        for style, config in (("large", LARGE_STYLE), ("base", BASE_STYLE)):
            states = {}
            for name, spelling, prefix, form, shards in (
                ("plain", OLD, "", "safetensors", 1), ("new", NEW, "hubert.", "bin", 1), ("sharded", NEW, "", "safetensors", 3),
                ("binary", OLD, "hubert.", "bin", 2),
            ):
                tensors = hubert_state(config, spelling, prefix)
                if prefix:
                    tensors |= {"lm_head.weight": torch.zeros(32, 48), "lm_head.bias": torch.zeros(32)}
                source = write_folder(self.folder / f"{style}-{name}", config, tensors, form, shards, {"do_normalize": True})
                with mock.patch.object(export_hubert, "transformers", lambda: None):
                    export(export_hubert, "--source", source, "--out", self.out)
                states[name] = self.states()
            source = self.folder / f"{style}.pt"
            tensors = fairseq_state(hubert_state(config), group_norm=style == "base")
            torch.save({"args": None, "cfg": fairseq_config(config, True), "model": tensors}, source)
            with mock.patch.object(export_hubert, "transformers", lambda: None):
                export(export_hubert, "--source", source, "--out", self.out)
            states["fairseq"] = self.states()
            for name in states:
                with self.subTest(style=style, source=name):
                    self.assert_near(states[name], states["plain"], 1e-6)

    @unittest.skipIf(NO_TRANSFORMERS, NO_TRANSFORMERS)
    def test_states_are_those_of_transformers(self) -> None:
        for name, config in (
            ("large", LARGE_STYLE), ("base", BASE_STYLE), ("no projection norm", {**BASE_STYLE, "feat_proj_layer_norm": False}),
        ):
            for normalize in (True, False):
                with self.subTest(config=name, normalize=normalize):
                    model = transformers.HubertModel(transformers.HubertConfig(**config)).eval()
                    with torch.no_grad():
                        for parameter in model.parameters():
                            parameter.add_(0.05 * torch.randn_like(parameter))
                    source = self.folder / f"{name}-{normalize}"
                    model.save_pretrained(source)
                    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize)
                    extractor.save_pretrained(source)
                    printed = export(export_hubert, "--source", source, "--out", self.out)
                    self.assertEqual(printed.count("f32 with transformers"), 6)
                    expected = []
                    for wave in waves():
                        values = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values
                        output = model(values, output_hidden_states=True)
                        expected.append(torch.cat([*output.hidden_states[:-1], output.last_hidden_state]).detach())
                    self.assert_near(self.states(), expected)

    def test_padding_batches_and_precision_change_nothing(self) -> None:
        for config in (LARGE_STYLE, BASE_STYLE):
            source = write_folder(self.folder / config["feat_extract_norm"], config, hubert_state(config))
            export(export_hubert, "--source", source, "--out", self.out)
            for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
                with self.subTest(norm=config["feat_extract_norm"], dtype=dtype):
                    model = torch.jit.load(str(self.out)).to(dtype)
                    with torch.no_grad():
                        alone = verify.speech_alone(model, waves())
                        self.assertTrue(all(states.dtype == dtype for states in alone))
                        self.assert_near(verify.speech_padded(model, waves()), alone, tolerance)
                        self.assert_near(alone, self.states(), 1e-1)

    def test_short_and_silent_utterances(self) -> None:
        export(export_hubert, "--random", "--config", "tiny", "--out", self.out)
        model = torch.jit.load(str(self.out))
        short = 0.1 * torch.randn(90, generator=torch.Generator().manual_seed(1))
        alone, frames = model(short[None], torch.tensor([90]))
        self.assertEqual(frames.tolist(), [1])
        batch = torch.zeros(2, 5000)
        batch[0, :90] = short
        hidden, frames = model(batch, torch.tensor([90, 5000]))
        self.assertEqual(frames.tolist(), [1, 15])
        self.assertTrue(hidden.isfinite().all())
        self.assert_near([hidden[:, 0, :1]], [alone[:, 0]])

    def test_the_file_keeps_the_contract(self) -> None:
        for dtype in ("f32", "bf16", "f16"):
            printed = export(export_hubert, "--random", "--config", "tiny", "--seed", 3, "--dtype", dtype, "--out", self.out)
            self.assertIn("the file, read back, with the module: equal", printed)
            model = torch.jit.load(str(self.out))
            self.assertEqual(json.loads(model.spec()), {
                "format": 1, "modality": "speech", "name": "hubert-tiny-random", "source": "random weights, seed 3", "layers": 4,
                "width": 48, "sample_rate": 16000, "min_samples": 400, "hop": 320, "normalize": True,
            })
            self.assertEqual({parameter.dtype for parameter in model.parameters()}, {command.DTYPES[dtype]})
            self.assertFalse(any(parameter.requires_grad for parameter in model.parameters()))
            self.assertFalse(model.training)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["encoder.pt"])

    def test_tensors_missing_extra_misshapen_or_not_finite_are_named(self) -> None:
        key = "encoder.layers.1.attention.k_proj.weight"
        extra, conv = "encoder.layers.2.layer_norm.weight", "encoder.pos_conv_embed.conv"
        wrong = {
            "lacks " + key: lambda tensors: tensors.pop(key),
            f"holds {extra}, which": lambda tensors: tensors.update({extra: torch.ones(48)}),
            f"{key} has shape [48, 47] where [48, 48] is needed": lambda tensors: tensors.update({key: torch.ones(48, 47)}),
            f"{key} is torch.int64": lambda tensors: tensors.update({key: torch.ones(48, 48, dtype=torch.int64)}),
            "NaN": lambda tensors: tensors[key].fill_(float("nan")),
            f"lacks {conv}.weight_g": lambda tensors: tensors.pop(f"{conv}.weight_g"),
            "both spellings": lambda tensors: tensors.update({f"{conv}.{NEW[0]}": torch.ones(1, 1, 16)}),
            "weight_g has shape [48, 1, 1]": lambda tensors: tensors.update({f"{conv}.weight_g": torch.ones(48, 1, 1)}),
        }
        for index, (part, change) in enumerate(wrong.items()):
            with self.subTest(part):
                tensors = hubert_state(LARGE_STYLE)
                change(tensors)
                source = write_folder(self.folder / str(index), LARGE_STYLE, tensors)
                self.assert_refused(export_hubert, ["--source", source], str(source), part)

    def test_fairseq_names_what_is_wrong_in_its_own_names(self) -> None:
        tensors = fairseq_state(hubert_state(LARGE_STYLE), False)
        del tensors["encoder.layers.0.self_attn.q_proj.bias"]
        tensors["predictor.weight"] = torch.ones(2)
        source = self.folder / "hubert.pt"
        torch.save({"cfg": fairseq_config(LARGE_STYLE, True), "model": tensors}, source)
        parts = ("lacks encoder.layers.0.self_attn.q_proj.bias", "holds predictor.weight")
        self.assert_refused(export_hubert, ["--source", source], *parts)
        config = fairseq_config(LARGE_STYLE, True)
        config["model"]["conv_feature_layers"] = "__import__('os').abort()"
        torch.save({"cfg": config, "model": tensors}, source)
        self.assert_refused(export_hubert, ["--source", source], "conv_feature_layers is")

    def test_a_fairseq_pickle_with_classes_of_its_own_is_read_without_running_it(self) -> None:
        modules = {name: types.ModuleType(name) for name in ("omegaconf", "omegaconf.dictconfig", "fairseq", "fairseq.data")}

        class DictConfig:
            def __init__(self, content: dict) -> None:
                self.__dict__["_content"] = content

        class AnyNode:
            def __init__(self, value: object) -> None:
                self._val = value

        class Dictionary:
            def __init__(self) -> None:
                self.symbols = ["a"]

        class Burglar:
            def __init__(self, path: Path) -> None:
                self.path = path

            def __reduce__(self) -> tuple:
                return os.mkdir, (str(self.path),)

        for kind, module in ((DictConfig, "omegaconf.dictconfig"), (AnyNode, "omegaconf.dictconfig"), (Dictionary, "fairseq.data")):
            kind.__module__, kind.__qualname__ = module, kind.__name__
            setattr(modules[module], kind.__name__, kind)
        plain = fairseq_config(BASE_STYLE, False)
        nodes = DictConfig({part: DictConfig({key: AnyNode(value) for key, value in plain[part].items()}) for part in plain})
        flat = Namespace(**plain["model"], **{"normalize": False})
        trap = self.folder / "trap"
        source = self.folder / "hubert.pt"
        reference = None
        for cfg, args, zipped in ((plain, None, True), (nodes, None, True), (nodes, None, False), (None, flat, False)):
            content = {
                "cfg": cfg, "args": args, "task_state": {"dictionaries": [Dictionary(), Burglar(trap)]},
                "model": fairseq_state(hubert_state(BASE_STYLE), True),
            }
            with mock.patch.dict(sys.modules, modules):
                torch.save(content, source, _use_new_zipfile_serialization=zipped)
            export(export_hubert, "--source", source, "--out", self.out)
            self.assertFalse(trap.exists())
            self.assertFalse(json.loads(torch.jit.load(str(self.out)).spec())["normalize"])
            reference = reference or self.states()
            self.assert_near(self.states(), reference, 1e-7)

    def test_sources_that_are_none_are_refused(self) -> None:
        text = self.folder / "notes.pt"
        text.write_text("not a checkpoint")
        empty = self.folder / "empty.pt"
        empty.write_bytes(b"")
        numbers = self.folder / "numbers.pt"
        torch.save([1, 2], numbers)
        whole = self.folder / "whole.pt"
        torch.save({"cfg": fairseq_config(LARGE_STYLE, True), "model": fairseq_state(hubert_state(LARGE_STYLE), False)}, whole)
        cut = self.folder / "cut.pt"
        cut.write_bytes(whole.read_bytes()[:-5000])
        calls = self.folder / "calls.pt"
        calls.write_bytes(pickle.dumps({"model": print}))
        bare = self.folder / "bare"
        bare.mkdir()
        for source, part in (
            (self.folder / "absent", "no such file"), (text, "not a PyTorch checkpoint"), (empty, "not a PyTorch checkpoint"),
            (cut, "not a PyTorch checkpoint"), (numbers, "no dictionary"), (calls, "calls.pt"), (bare, "config.json: missing"),
        ):
            with self.subTest(source.name):
                self.assert_refused(export_hubert, ["--source", source], str(source), part)

    def test_folders_that_are_not_whole_or_not_hubert_are_refused(self) -> None:
        tensors = hubert_state(LARGE_STYLE)
        for index, (config, part) in enumerate((
            ({**LARGE_STYLE, "model_type": "wav2vec2"}, "model_type is 'wav2vec2'"),
            ({**LARGE_STYLE, "hidden_size": "48"}, "hidden_size is '48'"),
            ({**LARGE_STYLE, "hidden_size": -48}, "hidden_size is -48"),
            ({**LARGE_STYLE, "hidden_act": "relu"}, "hidden_act is 'relu'"),
            ({**LARGE_STYLE, "num_attention_heads": 5}, "5 heads do not divide"),
            ({**LARGE_STYLE, "conv_dim": [16] * 6}, "differ in number"),
            ({**LARGE_STYLE, "conv_pos_batch_norm": True}, "conv_pos_batch_norm"),
        )):
            with self.subTest(part):
                source = write_folder(self.folder / str(index), config, tensors)
                self.assert_refused(export_hubert, ["--source", source], "config.json", part)
        source = write_folder(self.folder / "weightless", LARGE_STYLE, tensors)
        (source / "model.safetensors").unlink()
        self.assert_refused(export_hubert, ["--source", source], "holds neither model.safetensors nor pytorch_model.bin")
        source = write_folder(self.folder / "sharded", LARGE_STYLE, tensors, "safetensors", 2)
        index = source / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        index.write_text(json.dumps({"weight_map": {**content["weight_map"], "more": "../model.safetensors"}}))
        self.assert_refused(export_hubert, ["--source", source], "a shard outside its folder")
        index.write_text(json.dumps({"weight_map": {**content["weight_map"], "more": "model-00001-of-00002.safetensors"}}))
        self.assert_refused(export_hubert, ["--source", source], "the shards lack more")
        broken = write_folder(self.folder / "broken", LARGE_STYLE, tensors)
        (broken / "model.safetensors").write_bytes(b"\xff" * 100)
        self.assert_refused(export_hubert, ["--source", broken], "not a safetensors file")

    def test_nothing_is_written_above_the_tolerance(self) -> None:
        source = write_folder(self.folder / "hubert", BASE_STYLE, hubert_state(BASE_STYLE))
        normal = hubert.TimeNorm.forward

        def unmasked(self, x, frames):
            return normal(self, x, torch.full_like(frames, x.size(2)))

        with mock.patch.object(hubert.TimeNorm, "forward", unmasked):
            parts = ("padded in a batch with alone", "nothing was written")
            self.assert_refused(export_hubert, ["--source", source], *parts, kind=ExportFailed)
        if not NO_TRANSFORMERS:
            with mock.patch.object(hubert.Block, "attend", lambda self, x, valid: x):
                self.assert_refused(export_hubert, ["--source", source], "with transformers", kind=ExportFailed)


class Clip(Exporting):
    def features(self) -> list:
        return verify.image_features(torch.jit.load(str(self.out)), verify.images(42))

    def test_every_format_gives_the_same_features(self) -> None:
        tensors = clip_state(CLIP_VISION)
        inner = {key: value for key, value in CLIP_VISION.items() if key != "projection_dim"}
        whole = {"model_type": "clip", "projection_dim": 24, "vision_config": inner}
        vision = {name: tensor for name, tensor in tensors.items() if name.startswith("vis")}
        ids = {"vision_model.embeddings.position_ids": torch.arange(10)[None]}
        sources = {
            "vision": write_folder(self.folder / "vision", CLIP_VISION, vision),
            "whole": write_folder(self.folder / "whole", whole, {**tensors, **ids}, "bin", 2),
            "sharded": write_folder(self.folder / "sharded", whole, tensors, "safetensors", 2),
            "archive": self.folder / "archive.pt", "plain": self.folder / "plain.pt", "wrapped": self.folder / "wrapped.pt",
        }
        archive(openai_state(tensors)).save(str(sources["archive"]))
        torch.save(openai_state(tensors), sources["plain"])
        torch.save({"epoch": 1, "state_dict": openai_state(tensors)}, sources["wrapped"])
        expected = None
        for name, source in sources.items():
            with self.subTest(name), mock.patch.object(export_clip, "transformers", lambda: None):
                export(export_clip, "--source", source, "--out", self.out)
                expected = expected or self.features()
                self.assert_near(self.features(), expected, 1e-6)

    def test_openai_weights_in_half_precision_and_the_other_activation(self) -> None:
        tensors = openai_state(clip_state(CLIP_VISION))
        source = self.folder / "ViT.pt"
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        archive(half).save(str(source))
        printed = export(export_clip, "--source", source, "--out", self.out)
        self.assertIn("QuickGELU", printed)
        quick = self.features()
        self.assertEqual(json.loads(torch.jit.load(str(self.out)).spec())["source"], "ViT.pt (openai)")
        export(export_clip, "--source", source, "--activation", "gelu", "--out", self.out)
        self.assertGreater(max(float((a - b).abs().max()) for a, b in zip(self.features(), quick)), 1e-3)

    @unittest.skipIf(NO_TRANSFORMERS, NO_TRANSFORMERS)
    def test_features_are_those_of_transformers(self) -> None:
        for activation in ("quick_gelu", "gelu"):
            for whole in (False, True):
                with self.subTest(activation=activation, whole=whole):
                    settings = {**CLIP_VISION, "hidden_act": activation}
                    if whole:
                        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
                        text |= {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
                        config = transformers.CLIPConfig(vision_config=settings, text_config=text, projection_dim=24)
                        model = transformers.CLIPModel(config).eval()
                    else:
                        model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**settings)).eval()
                    with torch.no_grad():
                        for parameter in model.parameters():
                            parameter.add_(0.05 * torch.randn_like(parameter))
                    source = self.folder / f"{activation}-{whole}"
                    model.save_pretrained(source)
                    printed = export(export_clip, "--source", source, "--out", self.out)
                    self.assertEqual(printed.count("f32 with transformers"), 2)
                    constants = (transformers.image_utils.OPENAI_CLIP_MEAN, transformers.image_utils.OPENAI_CLIP_STD)
                    mean, std = (torch.tensor(values)[:, None, None] for values in constants)
                    values = (verify.images(42).float() / 255 - mean) / std
                    output = model.vision_model(values)
                    projected = model.visual_projection(model.vision_model.post_layernorm(output.last_hidden_state)).detach()
                    expected = [feature for image in projected for feature in (image[:1], image[1:])]
                    self.assert_near(self.features(), expected)

    def test_mean_and_deviation_are_the_preprocessor_s(self) -> None:
        vision = {name: tensor for name, tensor in clip_state(CLIP_VISION).items() if name.startswith("vis")}
        halves = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
        features = {}
        for name, preprocessor in (("published", None), ("halves", halves), ("nested", halves)):
            source = write_folder(self.folder / name, CLIP_VISION, vision, preprocessor=preprocessor)
            if name == "nested":
                (source / "processor_config.json").write_text(json.dumps({"image_processor": halves}))
                (source / "preprocessor_config.json").unlink()
            export(export_clip, "--source", source, "--out", self.out)
            features[name] = self.features()
            mean = torch.jit.load(str(self.out)).mean
            self.assertEqual(mean, list(clip.MEAN) if preprocessor is None else [0.5] * 3)
        self.assert_near(features["nested"], features["halves"], 1e-7)
        self.assertGreater(float((features["halves"][0] - features["published"][0]).abs().max()), 1e-3)

    def test_the_file_keeps_the_contract(self) -> None:
        for dtype in ("f32", "bf16", "f16"):
            export(export_clip, "--random", "--config", "tiny", "--dtype", dtype, "--name", "mine", "--out", self.out)
            model = torch.jit.load(str(self.out))
            self.assertEqual(json.loads(model.spec()), {
                "format": 1, "modality": "image", "name": "mine", "source": "random weights, seed 0", "size": 56,
                "grid": [4, 4], "width": 32,
            })
            cls, patches = model(verify.images(56))
            self.assertEqual((cls.shape, patches.shape), ((4, 32), (4, 16, 32)))
            self.assertEqual({cls.dtype, patches.dtype}, {command.DTYPES[dtype]})
            self.assertFalse(cls.requires_grad or patches.requires_grad)
        self.assertLess(self.out.stat().st_size, 1_000_000)

    def test_tensors_missing_extra_or_misshapen_are_named(self) -> None:
        source, norm, before = self.folder / "clip.pt", "visual.transformer.resblocks.0.ln_1.bias", "visual.ln_pre.weight"
        for part, change in {
            "lacks visual.proj;": lambda tensors: tensors.pop("visual.proj"),
            f"lacks {norm};": lambda tensors: tensors.pop(norm),
            "holds visual.more": lambda tensors: tensors.update({"visual.more": torch.ones(1)}),
            f"{before} has shape [64] where [128]": lambda tensors: tensors.update({before: torch.ones(64)}),
            "visual.positional_embedding has shape [9, 128] where [5, 128]":
                lambda tensors: tensors.update({"visual.positional_embedding": torch.ones(9, 128)}),
            "visual.conv1.weight has shape [128]": lambda tensors: tensors.update({"visual.conv1.weight": torch.ones(128)}),
            "holds visual.layer1.0.conv1.weight": lambda tensors: tensors.update({"visual.layer1.0.conv1.weight": torch.ones(1)}),
        }.items():
            with self.subTest(part):
                tensors = openai_state(clip_state(CLIP_VISION))
                change(tensors)
                torch.save(tensors, source)
                self.assert_refused(export_clip, ["--source", source], str(source), part)
        folder = write_folder(
            self.folder / "unprojected", CLIP_VISION,
            {name: tensor for name, tensor in clip_state(CLIP_VISION).items() if name.startswith("vision_model.")},
        )
        self.assert_refused(export_clip, ["--source", folder], "lacks visual_projection.weight")

    def test_the_wrong_kind_of_checkpoint_is_refused(self) -> None:
        source = self.folder / "hubert.pt"
        torch.save({"cfg": fairseq_config(LARGE_STYLE, True), "model": fairseq_state(hubert_state(LARGE_STYLE), False)}, source)
        self.assert_refused(export_clip, ["--source", source], "is a fairseq checkpoint")
        torch.save(openai_state(clip_state(CLIP_VISION)), source)
        self.assert_refused(export_hubert, ["--source", source], "no cfg of fairseq's")
        folder = write_folder(self.folder / "hubert", LARGE_STYLE, hubert_state(LARGE_STYLE))
        self.assert_refused(export_clip, ["--source", folder], "model_type is 'hubert'")
        self.assert_refused(export_clip, ["--source", folder / "model.safetensors"], "give the folder")

    def test_nothing_is_written_above_the_tolerance(self) -> None:
        with mock.patch.dict(verify.ROUNDING, {torch.bfloat16: 1e-6}):
            arguments = ["--random", "--config", "tiny", "--dtype", "bf16"]
            self.assert_refused(export_clip, arguments, "bf16 with f32", "nothing was written", kind=ExportFailed)


@unittest.skipIf(NO_TORCH, NO_TORCH)
class CommandLine(unittest.TestCase):
    """As users run it."""

    def run_script(self, name: str, *arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, SCRIPTS / name, *map(str, arguments)], capture_output=True, text=True)

    def test_an_error_is_one_line_and_status_2(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("export_hubert.py", "export_clip.py"):
                for arguments, part in (
                    (["--source", f"{folder}/absent", "--out", f"{folder}/out.pt"], "no such file"),
                    (["--random", "--out", f"{folder}/out.pt"], "needs --config"),
                    (["--random", "--config", "tiny", "--out", folder], "is a folder"),
                    (["--random", "--config", "tiny", "--out", f"{__file__}/out.pt"], "cannot be made"),
                ):
                    done = self.run_script(name, *arguments)
                    self.assertEqual(done.returncode, 2, done.stderr)
                    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                    self.assertTrue(done.stderr.startswith("error: "), done.stderr)
                    self.assertIn(part, done.stderr)

    def test_it_says_what_it_does(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            done = self.run_script("export_hubert.py", "--random", "--config", "tiny", "--out", f"{folder}/new/encoder.pt")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            for part in ("random weights", "62,256 parameters", "padded in a batch with alone", "with the module: equal"):
                self.assertIn(part, done.stdout)
            self.assertIn(f"wrote {folder}/new/encoder.pt", done.stdout.splitlines()[-1])


@unittest.skipIf(NO_TORCH or NO_TRANSFORMERS, NO_TORCH or NO_TRANSFORMERS)
@unittest.skipUnless(os.environ.get("CMD_TEST_TRUE_SIZE"), "needs 3.5 GB of memory and minutes: set CMD_TEST_TRUE_SIZE=1")
class TrueSize(Exporting):
    """HuBERT-Large and ViT-L/14 with random weights against transformers' own classes."""

    def test_the_largest_difference_is_small(self) -> None:
        for script in (export_hubert, export_clip):
            for dtype in ("f32", "bf16"):
                printed = export(script, "--random", "--config", "large", "--dtype", dtype, "--out", self.out)
                print(f"\n{script.__name__}.py --random --config large --dtype {dtype}\n{printed}")
                found = re.findall(r"f32 with transformers.*max difference (\S+)", printed)
                self.assertEqual(len(found), 6 if script is export_hubert else 2)
                self.assertLess(max(map(float, found)), 1e-4)


class WithoutTorch(unittest.TestCase):
    def test_a_missing_torch_is_one_line(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "torch.py").write_text("raise ImportError('no torch here')\n")
            environment = {**os.environ, "PYTHONPATH": folder}
            done = subprocess.run([sys.executable, SCRIPTS / "export_clip.py"], capture_output=True, text=True, env=environment)
            self.assertEqual(done.returncode, 2)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertIn("pip install -r scripts/export_requirements.txt", done.stderr)


if __name__ == "__main__":
    unittest.main()
