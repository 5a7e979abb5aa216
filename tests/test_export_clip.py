"""export_clip.py: CLIP in every published format, what it refuses, and that the file changes nothing."""

from __future__ import annotations

import json
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

from export_sources import (  # noqa: E402
    CLIP_VISION, LARGE_STYLE, NO_TORCH, NO_TRANSFORMERS, OPENAI_PICTURES, archive, clip_state, export, fairseq_config, fairseq_state,
    hubert_state, openai_state, write_folder,
)
from export_images import HALVES, OPENAI, TEXT, Images, shake, values  # noqa: E402

if not NO_TORCH:
    import torch

    import export_clip
    import export_hubert
    from exporting import clip, verify
    from exporting.errors import ExportFailed
if not NO_TRANSFORMERS:
    import transformers

QUICK = ["--activation", "quick_gelu", *OPENAI]


class Clip(Images):
    def folder_of(self, name: str, config: dict | None = None, preprocessor: dict | None = OPENAI_PICTURES) -> Path:
        """A CLIPVisionModelWithProjection."""
        vision = {name: tensor for name, tensor in clip_state(CLIP_VISION).items() if name.startswith("vis")}
        return write_folder(self.folder / name, config or CLIP_VISION, vision, preprocessor=preprocessor)

    def test_every_format_gives_the_same_features(self) -> None:
        tensors = clip_state(CLIP_VISION)
        inner = {key: value for key, value in CLIP_VISION.items() if key != "projection_dim"}
        whole = {"model_type": "clip", "projection_dim": 24, "vision_config": inner}
        older = {"model_type": "clip", "projection_dim": 24, "vision_config_dict": inner, "vision_config": {"image_size": 42}}
        ids = {"vision_model.embeddings.position_ids": torch.arange(10)[None]}
        sources = {
            "vision": self.folder_of("vision"),
            "whole": write_folder(self.folder / "whole", whole, {**tensors, **ids}, "bin", 2, OPENAI_PICTURES),
            "sharded": write_folder(self.folder / "sharded", whole, tensors, "safetensors", 2, OPENAI_PICTURES),
            "older": write_folder(self.folder / "older", older, tensors, preprocessor=OPENAI_PICTURES),
            "archive": self.folder / "archive.pt", "plain": self.folder / "plain.pt", "wrapped": self.folder / "wrapped.pt",
        }
        archive(openai_state(tensors)).save(str(sources["archive"]))
        torch.save(openai_state(tensors), sources["plain"])
        torch.save({"epoch": 1, "state_dict": openai_state(tensors)}, sources["wrapped"])
        expected = None
        for name, source in sources.items():
            with self.subTest(name), mock.patch.object(export_clip, "transformers", lambda: None):
                options = QUICK if name in ("plain", "wrapped") else []
                export(export_clip, "--source", source, *options, "--out", self.out)
                expected = expected or self.features()
                self.assert_near(self.features(), expected, 1e-6)

    def test_an_archive_s_code_names_its_activation(self) -> None:
        tensors, source = openai_state(clip_state(CLIP_VISION)), self.folder / "ViT.pt"
        for activation, options, mean, std in (
            ("quick_gelu", [], clip.OPENAI_MEAN, clip.OPENAI_STD), ("gelu", HALVES, [0.5] * 3, [0.5] * 3),
        ):
            with self.subTest(activation):
                theirs = archive(tensors, activation)
                theirs.save(str(source))
                printed = export(export_clip, "--source", source, *options, "--out", self.out)
                self.assertIn(f"; {activation}\n", printed)
                self.assertEqual(json.loads(torch.jit.load(str(self.out)).spec())["source"], "ViT.pt (openai)")
                self.assert_near([torch.cat(self.features()[::2])], [theirs.encode_image(values(mean, std, 42)).detach()])
                half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
                archive(half, activation).save(str(source))
                exact = self.features()
                export(export_clip, "--source", source, *options, "--out", self.out)
                self.assert_near(self.features(), exact, 3e-3)

    def test_an_archive_whose_code_does_not_say_all_needs_options(self) -> None:
        tensors, source = openai_state(clip_state(CLIP_VISION)), self.folder / "ViT.pt"
        for activation, options, parts in (
            ("gelu", [], ("an archive that does not say its mean, std; give --mean and --std",)),
            ("gelu", [*HALVES, "--activation", "quick_gelu"], ("--activation quick_gelu: contradicts the code of", "has gelu")),
            ("quick_gelu", ["--activation", "gelu"], ("--activation gelu: contradicts", "of OpenAI's, which has quick_gelu")),
            ("quick_gelu", HALVES, ("--mean 0.5,0.5,0.5: contradicts", "has 0.48145466,0.4578275,0.40821073")),
            ("swish", [], ("does not say its activation, mean, std; give --activation, --mean and --std",)),
            (None, HALVES, ("does not say its activation; give --activation;",)),
        ):
            with self.subTest(activation=activation, options=options):
                archive(tensors, activation).save(str(source))
                self.assert_refused(export_clip, ["--source", source, *options], str(source), *parts)
        archive(tensors).save(str(source))
        export(export_clip, "--source", source, *QUICK, "--out", self.out)

    def test_a_bare_state_dict_without_its_settings_is_refused_by_what_is_known_of_it(self) -> None:
        source = self.folder / "vit.pt"
        for width, patch, size, parts in (
            (1024, 14, 224, (
                "1 layers of 1024 with 16 heads, patches of 14, images of 224, projected to 768) are those of ViT-L/14: OpenAI and "
                "MetaCLIP have quick_gelu, OpenAI's mean and std; LAION-2B gelu, mean = std = 0.5,0.5,0.5; DataComp gelu, OpenAI's",
                f"OpenAI's are {' '.join(OPENAI)}",
            )),
            (1024, 14, 336, ("ViT-L/14 at 336: OpenAI has quick_gelu",)),
            (768, 32, 224, ("12 heads", "ViT-B/32: OpenAI and MetaCLIP have quick_gelu, LAION-2B and DataComp gelu",)),
            (1280, 14, 224, ("with 16 heads", "ViT-H/14: LAION-2B has gelu, MetaCLIP quick_gelu")),
            (128, 14, 42, ("2 heads", "no model that is known here: OpenAI and MetaCLIP have quick_gelu")),
        ):
            with self.subTest(width=width, patch=patch, size=size):
                shapes = {
                    "visual.conv1.weight": (width, 3, patch, patch),
                    "visual.positional_embedding": ((size // patch) ** 2 + 1, width),
                    "visual.transformer.resblocks.0.mlp.c_fc.weight": (4 * width, width), "visual.proj": (width, 768),
                }
                torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, source)
                for options, missing in (
                    ([], "activation, mean, std; give --activation, --mean and --std;"),
                    (OPENAI, "activation; give --activation;"),
                    (["--activation", "gelu"], "mean, std; give --mean and --std;"),
                    (["--activation", "gelu", *HALVES[:2]], "std; give --std;"),
                ):
                    said = f"a bare state dict that does not say its {missing}"
                    self.assert_refused(export_clip, ["--source", source, *options], str(source), said, *parts)

    def test_a_bare_state_dict_is_taken_as_the_options_say(self) -> None:
        tensors, source, features = clip_state(CLIP_VISION), self.folder / "vit.pt", []
        torch.save(openai_state(tensors), source)
        for activation, options, halves in (("quick_gelu", OPENAI, False), ("gelu", OPENAI, False), ("gelu", HALVES, True)):
            export(export_clip, "--source", source, "--activation", activation, *options, "--out", self.out)
            self.assertEqual(json.loads(torch.jit.load(str(self.out)).spec())["source"], "vit.pt (state dict)")
            features.append(self.features())
            constants = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if halves else {}
            config = {**CLIP_VISION, "hidden_act": activation}
            folder = self.folder_of(f"{activation}-{halves}", config, {**OPENAI_PICTURES, **constants})
            export(export_clip, "--source", folder, "--out", self.out)
            self.assert_near(self.features(), features[-1], 1e-6)
        for one, other in ((0, 1), (1, 2)):
            self.assertGreater(max(float((a - b).abs().max()) for a, b in zip(features[one], features[other])), 1e-3)

    @unittest.skipIf(NO_TRANSFORMERS, NO_TRANSFORMERS)
    def test_features_are_those_of_transformers(self) -> None:
        openai = (OPENAI_PICTURES["image_mean"], OPENAI_PICTURES["image_std"])
        for name, activation, shared, (mean, std), whole in (
            ("openai", "quick_gelu", 24, openai, False), ("openai whole", "quick_gelu", 24, openai, True),
            ("gelu", "gelu", 24, openai, False), ("laion2b", "gelu", 768, ([0.5] * 3, [0.5] * 3), True),
            ("datacomp", "gelu", 768, openai, True), ("metaclip", "quick_gelu", 768, openai, True),
        ):
            with self.subTest(name):
                settings = {**CLIP_VISION, "hidden_act": activation}
                if whole:
                    # The whole model's width counts, not the default that transformers writes into vision_config.
                    del settings["projection_dim"]
                    config = transformers.CLIPConfig(vision_config=settings, text_config=TEXT, projection_dim=shared)
                    model = shake(transformers.CLIPModel(config))
                else:
                    model = shake(transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**settings)))
                source = self.folder / name
                model.save_pretrained(source)
                preprocessor = {**OPENAI_PICTURES, "image_mean": mean, "image_std": std}
                (source / "preprocessor_config.json").write_text(json.dumps(preprocessor))
                printed = export(export_clip, "--source", source, "--out", self.out)
                self.assertEqual(printed.count("f32 with transformers"), 2)
                kind = transformers.CLIPVisionModelWithProjection
                theirs = kind.from_pretrained(source, projection_dim=shared).eval() if whole else model
                with torch.no_grad():
                    output = theirs(values(mean, std, 42))
                    patches = theirs.visual_projection(theirs.vision_model.post_layernorm(output.last_hidden_state[:, 1:]))
                pairs = zip(output.image_embeds, patches)
                self.assert_near(self.features(), [feature for cls, patch in pairs for feature in (cls[None], patch)])
                self.assertEqual(json.loads(torch.jit.load(str(self.out)).spec())["width"], shared)

    def test_mean_and_deviation_are_the_preprocessor_s(self) -> None:
        halves = {**OPENAI_PICTURES, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
        features = {}
        for name, preprocessor in (("openai", OPENAI_PICTURES), ("halves", halves), ("nested", halves)):
            source = self.folder_of(name, preprocessor=preprocessor)
            if name == "nested":
                (source / "processor_config.json").write_text(json.dumps({"image_processor": halves}))
                (source / "preprocessor_config.json").unlink()
            export(export_clip, "--source", source, "--out", self.out)
            features[name] = self.features()
            self.assertEqual(torch.jit.load(str(self.out)).mean, preprocessor["image_mean"])
        self.assert_near(features["nested"], features["halves"], 1e-7)
        self.assertGreater(float((features["halves"][0] - features["openai"][0]).abs().max()), 1e-3)

    def test_a_folder_without_mean_and_deviation_needs_options(self) -> None:
        for name, preprocessor, missing in (
            ("bare", None, "image_mean; give --mean and --std"), ("half", {"image_mean": [0.5] * 3}, "image_std; give --std"),
        ):
            source = self.folder_of(name, preprocessor=preprocessor)
            parts = (f"{name}/preprocessor_config.json: missing, or without {missing}; OpenAI's are {' '.join(OPENAI)}",)
            self.assert_refused(export_clip, ["--source", source], *parts)
        for source in ("bare", "half"):
            export(export_clip, "--source", self.folder / source, *HALVES, "--out", self.out)
            model = torch.jit.load(str(self.out))
            self.assertEqual((model.mean, model.std, json.loads(model.spec())["resize"]), ([0.5] * 3, [0.5] * 3, "crop"))

    def test_options_that_contradict_a_folder_or_cannot_be_are_refused(self) -> None:
        source = self.folder_of("clip")
        for options, part in (
            (["--activation", "gelu"], "--activation gelu: contradicts"), (HALVES[:2], "--mean 0.5,0.5,0.5: contradicts"),
            (HALVES[2:], "--std 0.5,0.5,0.5: contradicts"), (["--mean", "0.5,0.5"], "--mean 0.5,0.5: must be three numbers"),
            (["--mean", "a,b,c"], "three numbers"), (["--mean", "123.7,116.3,103.5"], "from 0 to 1"),
            (["--std", "0.5,0,0.5"], "a std above 0"), (["--std", "0.5,nan,0.5"], "from 0 to 1"),
        ):
            with self.subTest(options):
                self.assert_refused(export_clip, ["--source", source, *options], part)
                if "contradicts" not in part:
                    self.assert_refused(export_clip, ["--random", "--config", "tiny", *options], part)
        self.assert_refused(export_clip, ["--random", "--config", "tiny", *HALVES], "go with --source")
        export(export_clip, "--source", source, *QUICK, "--out", self.out)

    def test_pictures_that_the_program_does_not_make_are_refused_or_noted(self) -> None:
        square = {"height": 42, "width": 42}
        for index, (change, part) in enumerate((
            ({"do_rescale": False}, "do_rescale is False"), ({"do_normalize": False}, "do_normalize is False"),
            ({"do_resize": False}, "do_resize is False"), ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.00784"),
            ({"resample": 0}, "resample is 0 where 1 or 2 or 3 is needed"), ({"crop_size": 40}, "crop_size is 40 where 42"),
            ({"crop_size": {"height": 42, "width": 40}}, "crop_size is"), ({"size": 48}, "size is 48 where 42"),
            ({"size": {"shortest_edge": 48}}, "size is {'shortest_edge': 48} where 42"),
            ({"do_center_crop": False}, "do_center_crop is False where True is needed"),
            ({"size": {"height": 42, "width": 56}, "do_center_crop": False}, "for both sides"),
            ({"image_std": [0.5, 0.5, 0]}, "image_std is [0.5, 0.5, 0]"), ({"image_mean": [0.5]}, "image_mean is [0.5]"),
        )):
            with self.subTest(part):
                source = self.folder_of(str(index), preprocessor={**OPENAI_PICTURES, **change})
                self.assert_refused(export_clip, ["--source", source], str(source / "preprocessor_config.json"), part)
        for name, change, resize, notes in (
            ("newer", {"crop_size": square, "size": {"shortest_edge": 42}, "rescale_factor": 0.00392156862745098}, "crop", []),
            ("squash", {"size": square, "do_center_crop": False}, "squash", ["squashes"]),
            ("cropless", {"size": square}, "squash", ["squashes"]), ("bilinear", {"resample": 2}, "crop", ["bilinear"]),
            ("both", {"resample": 1, "size": square}, "squash", ["squashes", "lanczos"]),
        ):
            with self.subTest(name):
                source = self.folder_of(name, preprocessor={**OPENAI_PICTURES, **change})
                printed = export(export_clip, "--source", source, "--out", self.out)
                lines = [line for line in printed.splitlines() if "note:" in line]
                self.assertEqual(len(lines), len(notes))
                for line, note in zip(lines, notes):
                    self.assertIn(note, line)
                self.assertEqual(json.loads(torch.jit.load(str(self.out)).spec())["resize"], resize)

    def test_a_config_that_says_two_things_is_refused(self) -> None:
        whole = {"model_type": "clip", "projection_dim": 24, "vision_config": CLIP_VISION}
        config = {**whole, "vision_config_dict": {"hidden_act": "gelu"}}
        source = write_folder(self.folder / "clip", config, clip_state(CLIP_VISION), preprocessor=OPENAI_PICTURES)
        parts = ("hidden_act is 'quick_gelu' in vision_config and 'gelu' in vision_config_dict",)
        self.assert_refused(export_clip, ["--source", source], "config.json", *parts)

    def test_the_file_keeps_the_contract(self) -> None:
        spec = {"name": "mine", "size": 56, "grid": [4, 4], "width": 32, "resize": "crop"}
        self.assert_keeps_the_contract("tiny", spec, "--name", "mine")
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
                self.assert_refused(export_clip, ["--source", source, *QUICK], str(source), part)
        folder = write_folder(
            self.folder / "unprojected", CLIP_VISION,
            {name: tensor for name, tensor in clip_state(CLIP_VISION).items() if name.startswith("vision_model.")},
            preprocessor=OPENAI_PICTURES,
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


if __name__ == "__main__":
    unittest.main()
