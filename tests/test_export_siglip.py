"""export_clip.py: SigLIP, what it refuses, and that the file changes nothing."""

from __future__ import annotations

import json
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

from export_sources import (  # noqa: E402
    NO_TORCH, NO_TRANSFORMERS, SIGLIP_PICTURES, SIGLIP_VISION, export, siglip_state, write_folder,
)
from export_images import HALVES, OPENAI, TEXT, Images, shake, values  # noqa: E402

if not NO_TORCH:
    import torch

    import export_clip
    from exporting import siglip, verify
    from exporting.errors import ExportFailed
if not NO_TRANSFORMERS:
    import transformers


class Siglip(Images):
    size = 44

    def model(self, whole: bool, **settings: object) -> torch.nn.Module:
        """transformers' class, random."""
        vision = {**SIGLIP_VISION, **settings}
        if whole:
            return shake(transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=TEXT)))
        return shake(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision)))

    def folder_of(self, name: str, change: dict | None = None, preprocessor: dict | None = SIGLIP_PICTURES) -> Path:
        """A SiglipVisionModel, its settings changed, as transformers 4 writes it."""
        vision = {name: tensor for name, tensor in siglip_state(SIGLIP_VISION).items() if name.startswith("vis")}
        return write_folder(self.folder / name, {**SIGLIP_VISION, **(change or {})}, vision, preprocessor=preprocessor)

    def whole(self, name: str, tensors: dict | None = None) -> Path:
        """A SiglipModel."""
        config = {"model_type": "siglip", "vision_config": SIGLIP_VISION}
        return write_folder(self.folder / name, config, tensors or siglip_state(SIGLIP_VISION), preprocessor=SIGLIP_PICTURES)

    @unittest.skipIf(NO_TRANSFORMERS, NO_TRANSFORMERS)
    def test_features_are_those_of_transformers(self) -> None:
        for name, whole, settings, resample in (
            ("vision", False, {}, 3), ("whole", True, {}, 3), ("siglip2", True, {"hidden_size": 48}, 2),
            ("gelu", False, {"hidden_act": "gelu"}, 3),
        ):
            with self.subTest(name):
                model = self.model(whole, **settings)
                source = self.folder / name
                model.save_pretrained(source)
                (source / "preprocessor_config.json").write_text(json.dumps({**SIGLIP_PICTURES, "resample": resample}))
                printed = export(export_clip, "--source", source, "--out", self.out)
                self.assertEqual(printed.count("f32 with transformers"), 2)
                self.assertEqual("a bilinear filter" in printed, resample == 2)
                with torch.no_grad():
                    output = (model.vision_model if whole else model)(values([0.5] * 3, [0.5] * 3, 44))
                pairs = zip(output.pooler_output, output.last_hidden_state)
                self.assert_near(self.features(), [feature for cls, patch in pairs for feature in (cls[None], patch)])

    def test_batches_formats_and_precision_change_nothing(self) -> None:
        with mock.patch.object(export_clip, "transformers", lambda: None):
            export(export_clip, "--source", self.folder_of("vision"), "--out", self.out)
            exact = self.features()
            export(export_clip, "--source", self.whole("whole"), "--out", self.out)
            self.assert_near(self.features(), exact, 1e-7)
        pixels = verify.images(44)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
            with self.subTest(dtype=dtype), torch.no_grad():
                model = torch.jit.load(str(self.out)).to(dtype)
                together = verify.image_features(model, pixels)
                self.assertTrue(all(feature.dtype == dtype for feature in together))
                alone = [feature for row in range(4) for feature in verify.image_features(model, pixels[row:row + 1])]
                self.assert_near(together, alone, tolerance)
                self.assert_near(together, exact, 1e-1)

    def test_the_file_keeps_the_contract(self) -> None:
        spec = {"name": "siglip-tiny-random", "size": 58, "grid": [4, 4], "width": 64, "resize": "squash"}
        self.assert_keeps_the_contract("siglip-tiny", spec)

    def test_tensors_missing_extra_or_misshapen_are_named(self) -> None:
        probe, extra = "vision_model.head.probe", "vision_model.encoder.layers.2.layer_norm1.weight"
        for index, (part, change) in enumerate({
            "lacks head.probe;": lambda tensors: tensors.pop(probe),
            "lacks post_layernorm.bias;": lambda tensors: tensors.pop("vision_model.post_layernorm.bias"),
            "head.probe has shape [32] where [1, 1, 32] is needed": lambda tensors: tensors.update({probe: torch.ones(32)}),
            "holds encoder.layers.2.layer_norm1.weight, which": lambda tensors: tensors.update({extra: torch.ones(32)}),
            "holds classifier.weight, which": lambda tensors: tensors.update({"classifier.weight": torch.ones(2, 32)}),
        }.items()):
            with self.subTest(part):
                tensors = siglip_state(SIGLIP_VISION)
                change(tensors)
                source = self.whole(str(index), tensors)
                self.assert_refused(export_clip, ["--source", source], str(source), part)

    def test_sources_that_are_no_square_siglip_are_refused(self) -> None:
        for index, (change, part) in enumerate((
            ({"model_type": "siglip2"}, "pictures of any shape (NaFlex)"), ({"model_type": "siglip2_vision_model"}, "(NaFlex)"),
            ({"model_type": "siglip_text_model"}, "model_type is 'siglip_text_model'"),
            ({"vision_use_head": False}, "vision_use_head is False"),
            ({"hidden_act": "relu"}, "hidden_act is 'relu'"), ({"num_attention_heads": 5}, "5 heads do not divide"),
            ({"image_size": [44, 44]}, "image_size is [44, 44]"), ({"image_size": 10}, "hold no patch"),
        )):
            with self.subTest(part):
                pictures = {**SIGLIP_PICTURES, "size": {"height": 10, "width": 10}} if part == "hold no patch" else SIGLIP_PICTURES
                self.assert_refused(export_clip, ["--source", self.folder_of(str(index), change, pictures)], "config.json", part)

    def test_what_the_preprocessor_says_counts(self) -> None:
        bare = self.folder_of("bare", preprocessor=None)
        said = "bare/preprocessor_config.json: missing, or without image_mean; give --mean and --std"
        parts = (said, f"SigLIP's are {' '.join(HALVES)}")
        self.assert_refused(export_clip, ["--source", bare], *parts)
        whole = self.whole("whole")
        parts = ("--activation gelu: contradicts", "which has gelu_pytorch_tanh")
        self.assert_refused(export_clip, ["--source", whole, "--activation", "gelu"], *parts)
        self.assert_refused(export_clip, ["--source", whole, *OPENAI], "--mean 0.48145466,0.4578275,0.40821073: contradicts")
        odd = self.folder_of("odd", preprocessor={**SIGLIP_PICTURES, "size": {"height": 44, "width": 58}})
        self.assert_refused(export_clip, ["--source", odd], "size is {'height': 44, 'width': 58} where 44")
        printed = export(export_clip, "--source", bare, *HALVES, "--out", self.out)
        self.assertIn("note: the source squashes pictures", printed)
        self.assertEqual(json.loads(torch.jit.load(str(self.out)).spec())["resize"], "squash")

    @unittest.skipIf(NO_TRANSFORMERS, NO_TRANSFORMERS)
    def test_nothing_is_written_above_the_tolerance(self) -> None:
        source = self.folder_of("siglip")
        with mock.patch.object(siglip.AttentionPool, "forward", lambda self, x: self.out(x.mean(1))):
            self.assert_refused(export_clip, ["--source", source], "with transformers", "nothing was written", kind=ExportFailed)


if __name__ == "__main__":
    unittest.main()
