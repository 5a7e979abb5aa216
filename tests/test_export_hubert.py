"""export_hubert.py: every published format, what it refuses, and that padding and the file change nothing."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
import unittest
from argparse import Namespace
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

from export_sources import (  # noqa: E402
    BASE_STYLE, LARGE_STYLE, NEW, NO_TORCH, NO_TRANSFORMERS, OLD, Exporting, export, fairseq_config, fairseq_state, hubert_state,
    waves, write_folder,
)

if not NO_TORCH:
    import torch

    import export_hubert
    from exporting import command, hubert, verify
    from exporting.errors import ExportFailed
if not NO_TRANSFORMERS:
    import transformers


def quiet_tone() -> torch.Tensor:
    """A second of 440 Hz at -60 dBFS."""
    return 1e-3 * torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)


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
                    export(export_hubert, "--source", source, "--eps", "1e-5", "--out", self.out)
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

    @unittest.skipIf(NO_TRANSFORMERS, NO_TRANSFORMERS)
    def test_quiet_speech_is_normalised_as_the_source_does(self) -> None:
        wave, tensors = quiet_tone(), hubert_state(LARGE_STYLE, NEW)
        reference = transformers.HubertModel(transformers.HubertConfig(**LARGE_STYLE)).eval()
        reference.load_state_dict(tensors)
        extractor = transformers.Wav2Vec2FeatureExtractor()
        extracted = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values
        normed = torch.nn.functional.layer_norm(wave, wave.shape)[None]
        fairseq, folder = self.folder / "hubert.pt", write_folder(self.folder / "hubert", LARGE_STYLE, tensors)
        extractor.save_pretrained(folder)
        state = fairseq_state(hubert_state(LARGE_STYLE), False)
        torch.save({"cfg": fairseq_config(LARGE_STYLE, True), "model": state}, fairseq)
        found = {}
        for source, options, eps, values, deviation in (
            (folder, [], 1e-7, extracted, 0.913), (fairseq, [], 1e-5, normed, 0.218),
            (folder, ["--eps", "1e-5"], 1e-5, normed, 0.218), (fairseq, ["--eps", "1e-7"], 1e-7, extracted, 0.913),
        ):
            with self.subTest(source=source.name, options=options):
                printed = export(export_hubert, "--source", source, *options, "--out", self.out)
                self.assertIn(f"normalised (eps {eps:g})", printed)
                model = torch.jit.load(str(self.out))
                spec = json.loads(model.spec())
                self.assertEqual((spec["eps"], spec["normalize"]), (eps, True))
                samples = model.samples(wave[None], torch.tensor([len(wave)]))
                self.assertAlmostEqual(float(samples.std()), deviation, 3)
                self.assert_near([samples], [values])
                output = reference(values, output_hidden_states=True)
                expected = torch.cat([*output.hidden_states[:-1], output.last_hidden_state]).detach()
                found[eps] = verify.speech_alone(model, [wave])
                self.assert_near(found[eps], [expected])
        self.assertGreater(float((found[1e-5][0] - found[1e-7][0]).abs().max()), 1e-2)

    def test_where_no_file_says_whether_to_normalise_the_family_does(self) -> None:
        for config, preprocessor, normalize, part in (
            (LARGE_STYLE, None, True, "Large's, which normalises them"),
            (BASE_STYLE, None, False, "Base's, which takes them as they are"),
            (LARGE_STYLE, {"do_normalize": False}, False, ""), (BASE_STYLE, {"do_normalize": True}, True, ""),
        ):
            name = f"{config['feat_extract_norm']}-{preprocessor}"
            with self.subTest(name), mock.patch.object(export_hubert, "transformers", lambda: None):
                source = write_folder(self.folder / name, config, hubert_state(config), preprocessor=preprocessor)
                printed = export(export_hubert, "--source", source, "--out", self.out)
                self.assertEqual("no preprocessor_config.json" in printed, preprocessor is None)
                self.assertIn(part, printed)
                spec = json.loads(torch.jit.load(str(self.out)).spec())
                self.assertEqual((spec["normalize"], spec["eps"]), (normalize, 1e-7 if normalize else None))

    def test_an_eps_that_cannot_be_is_refused(self) -> None:
        source = write_folder(self.folder / "hubert", BASE_STYLE, hubert_state(BASE_STYLE), preprocessor={"do_normalize": False})
        self.assert_refused(export_hubert, ["--source", source, "--eps", "1e-5"], "--eps: this source takes waveforms as they are")
        for eps in ("0", "-1", "1", "nan"):
            with self.subTest(eps):
                self.assert_refused(export_hubert, ["--random", "--config", "tiny", "--eps", eps], "above 0 and below 1")

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
                "width": 48, "sample_rate": 16000, "min_samples": 400, "hop": 320, "normalize": True, "eps": 1e-7,
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


if __name__ == "__main__":
    unittest.main()
