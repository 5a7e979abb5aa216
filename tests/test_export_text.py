"""export_clip.py --text: CLIP's text tower in every published format, what is refused, and that the file keeps its contract."""

from __future__ import annotations

import json
import os
import re
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

from export_sources import (  # noqa: E402
    CLIP_VISION, LARGE_STYLE, NO_TORCH, NO_TRANSFORMERS, OPENAI_PICTURES, SIGLIP_VISION, clip_state, export, fairseq_config,
    fairseq_state, hubert_state, openai_state, siglip_state, write_folder,
)
from export_images import OPENAI, shake  # noqa: E402
from export_texts import CLIP_TEXT, Texts, clip_text_state, openai_text_state, padded, text_archive  # noqa: E402

if not NO_TORCH:
    import torch

    import export_clip
    from exporting import clip_text, command, verify
    from exporting.errors import ExportFailed
if not NO_TRANSFORMERS:
    import transformers

START, END = 49406, 49407


class ClipText(Texts):
    def folder_of(self, name: str, change: dict | None = None, tensors: dict | None = None) -> Path:
        """A CLIPTextModelWithProjection, its settings changed."""
        return write_folder(self.folder / name, {**CLIP_TEXT, **(change or {})}, tensors or clip_text_state())

    def whole(self, name: str, **change: object) -> Path:
        """A CLIPModel, its whole configuration changed."""
        inner = {key: value for key, value in CLIP_TEXT.items() if key != "projection_dim"}
        config = {"model_type": "clip", "projection_dim": 24, "text_config": inner, "vision_config": CLIP_VISION, **change}
        ids = {"text_model.embeddings.position_ids": torch.arange(12)[None]}
        tensors = {**clip_state(CLIP_VISION), **clip_text_state(), **ids}
        return write_folder(self.folder / name, config, tensors, "bin", 2, OPENAI_PICTURES)

    def test_every_format_gives_the_same_embeddings(self) -> None:
        text = openai_text_state(clip_text_state())
        older = {"text_config_dict": {**CLIP_TEXT, "eos_token_id": 2}, "text_config": {"eos_token_id": 2}}
        whole = {**openai_state(clip_state(CLIP_VISION)), "attn_mask": torch.zeros(12, 12), **text}
        sources = {
            "text": self.folder_of("text"), "whole": self.whole("whole"), "older": self.whole("older", **older),
            "archive": self.folder / "archive.pt", "plain": self.folder / "plain.pt", "wrapped": self.folder / "wrapped.pt",
        }
        text_archive(whole, "quick_gelu").save(str(sources["archive"]))
        torch.save(whole, sources["plain"])
        torch.save({"epoch": 1, "state_dict": text}, sources["wrapped"])
        expected = None
        for name, source in sources.items():
            with self.subTest(name), mock.patch.object(export_clip, "transformers", lambda: None):
                options = ["--activation", "quick_gelu"] if name in ("plain", "wrapped") else []
                export(export_clip, "--text", "--source", source, *options, "--out", self.out)
                expected = expected or self.features()
                self.assert_near(self.features(), expected, 1e-6)
        for name in ("whole", "plain"):
            options = ["--activation", "quick_gelu", *OPENAI] if name == "plain" else []
            export(export_clip, "--source", sources[name], *options, "--out", self.out)
            self.assertEqual(json.loads(self.encoder().spec())["modality"], "image")

    @unittest.skipIf(NO_TRANSFORMERS, NO_TRANSFORMERS)
    def test_embeddings_are_those_of_transformers(self) -> None:
        for name, activation, end, shared, whole in (
            ("openai", "quick_gelu", 2, 24, False), ("newer", "quick_gelu", END, 24, False), ("laion", "gelu", 2, 768, True),
            ("metaclip", "quick_gelu", END, 40, True),
        ):
            with self.subTest(name):
                settings = {**CLIP_TEXT, "hidden_size": 24, "num_attention_heads": 3, "hidden_act": activation, "eos_token_id": end}
                if whole:
                    # The whole model's width counts, not the default that transformers writes into text_config.
                    del settings["projection_dim"]
                    config = transformers.CLIPConfig(text_config=settings, vision_config=CLIP_VISION, projection_dim=shared)
                    model = shake(transformers.CLIPModel(config))
                else:
                    model = shake(transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**settings)))
                source = self.folder / name
                model.save_pretrained(source)
                printed = export(export_clip, "--text", "--source", source, "--out", self.out)
                self.assertEqual(printed.count("f32 with transformers"), 1)
                with torch.no_grad():
                    if whole:
                        outputs = model.text_model(padded())
                        theirs = model.text_projection(outputs.pooler_output)
                    else:
                        theirs = model(padded()).text_embeds
                self.assert_near(self.features(), list(theirs[:, None]))
                self.assertEqual(json.loads(self.encoder().spec())["width"], shared)

    def test_an_archive_s_code_names_its_activation(self) -> None:
        tensors, source = openai_text_state(clip_text_state()), self.folder / "ViT.pt"
        visual = {"visual.proj": torch.zeros(8, 24)}
        for activation in ("quick_gelu", "gelu"):
            with self.subTest(activation):
                theirs = text_archive({**tensors, **visual}, activation)
                theirs.save(str(source))
                printed = export(export_clip, "--text", "--source", source, "--out", self.out)
                self.assertIn(f"projected to 24; {activation}\n", printed)
                self.assertEqual(json.loads(self.encoder().spec())["source"], "ViT.pt (openai)")
                with torch.no_grad():
                    self.assert_near(self.features(), list(theirs.encode_text(padded())[:, None]))
        self.out.unlink()
        parts = ("--activation quick_gelu: contradicts the code of", "which has gelu; leave the option out")
        self.assert_refused(export_clip, ["--text", "--source", source, "--activation", "quick_gelu"], str(source), *parts)
        text_archive(tensors, "swish").save(str(source))
        said = "an archive that does not say the activation of its text tower; give --activation;"
        self.assert_refused(export_clip, ["--text", "--source", source], str(source), said)

    def test_a_bare_state_dict_is_taken_as_the_option_says(self) -> None:
        source, features = self.folder / "vit.pt", []
        torch.save(openai_text_state(clip_text_state()), source)
        parts = (
            "a bare state dict that does not say the activation of its text tower; give --activation;",
            "2 layers of 128 with 2 heads, rows of 12 tokens, projected to 24: OpenAI and MetaCLIP have quick_gelu",
        )
        self.assert_refused(export_clip, ["--text", "--source", source], str(source), *parts)
        for activation in ("quick_gelu", "gelu"):
            export(export_clip, "--text", "--source", source, "--activation", activation, "--out", self.out)
            features.append(self.features())
            export(export_clip, "--text", "--source", self.folder_of(activation, {"hidden_act": activation}), "--out", self.out)
            self.assert_near(self.features(), features[-1], 1e-6)
        self.assertGreater(max(float((a - b).abs().max()) for a, b in zip(*features)), 1e-3)

    def test_the_file_keeps_the_contract(self) -> None:
        spec = {
            "format": 1, "modality": "text", "name": "clip-tiny-text-random", "source": "random weights, seed 0", "context": 77,
            "width": 32, "token_width": 24, "vocabulary": 49408, "start": START, "end": END,
        }
        tokens = torch.tensor([[START, 320, 1929, END, 0, 0], [START, 320, END, 0, 0, 0], [START, 320, END, 7, END, 9]])
        for dtype in ("f32", "bf16", "f16"):
            printed = export(export_clip, "--text", "--random", "--config", "tiny", "--dtype", dtype, "--out", self.out)
            self.assertIn("the file, read back, with the module: equal", printed)
            model = self.encoder()
            self.assertEqual(json.loads(model.spec()), spec)
            self.assertFalse(model.training or any(parameter.requires_grad for parameter in model.parameters()))
            embeddings = model(tokens)
            self.assertEqual((embeddings.shape, embeddings.dtype), ((3, 32), command.DTYPES[dtype]))
            self.assertFalse(embeddings.requires_grad)
            self.assertTrue(torch.equal(embeddings[1], embeddings[2]))
            self.assert_near([model(tokens[:1, :4])], [embeddings[:1]], {"f32": 1e-6, "bf16": 2e-2, "f16": 3e-3}[dtype])
            ids, vectors = model.vocabulary()
            self.assertEqual((ids.tolist(), ids.dtype), (list(range(START)), torch.int64))
            self.assertEqual((vectors.shape, vectors.dtype), ((START, 24), command.DTYPES[dtype]))
            self.assertTrue(torch.equal(model.keywords(vectors[tokens[:1, 1:3]].double()), model(tokens[:1, :4])))
        self.assertLess(self.out.stat().st_size, 3_000_000)

    def test_the_gradient_of_keywords_is_that_of_their_embedding(self) -> None:
        export(export_clip, "--text", "--random", "--config", "tiny", "--out", self.out)
        model = self.encoder().double()
        vectors = model.vocabulary()[1][torch.tensor([[5, 9, 7], [1, 2, 3]])].requires_grad_()
        self.assertTrue(torch.autograd.gradcheck(model.keywords, (vectors,)))
        self.assertEqual([parameter for parameter in model.parameters() if parameter.grad is not None], [])

    def test_rows_that_are_too_long_or_have_no_end_are_refused(self) -> None:
        export(export_clip, "--text", "--random", "--config", "tiny", "--out", self.out)
        model = self.encoder()
        longest = torch.tensor([[START, *[320] * 75, END]])
        self.assertEqual(model(longest).shape, (1, 32))
        for call, part in (
            (lambda: model(torch.cat([longest, longest], 1)), "a row of 154 tokens, start and end included, where at most 77 fit"),
            (lambda: model.keywords(torch.zeros(2, 76, 24)), "a row of 78 tokens"),
            (lambda: model(torch.cat([longest, longest.clamp(max=START)])), "a row of tokens without 49407, its end"),
        ):
            with self.subTest(part), self.assertRaisesRegex(torch.jit.Error, part):
                call()

    def test_options_of_pictures_and_siglip_are_refused(self) -> None:
        folder = self.folder_of("clip")
        siglip = write_folder(
            self.folder / "siglip", {"model_type": "siglip", "vision_config": SIGLIP_VISION}, siglip_state(SIGLIP_VISION),
        )
        for arguments, part in (
            (["--source", folder, *OPENAI], "--mean and --std: are of pictures; leave them out with --text"),
            (["--source", folder, *OPENAI[:2]], "--mean and --std: are of pictures"),
            (["--source", folder, "--activation", "gelu"], "--activation gelu: contradicts"),
            (["--source", siglip], "siglip/config.json: model_type is 'siglip': SigLIP's text tower needs another tokenizer"),
            (["--random", "--config", "siglip-tiny"], "--config siglip-tiny: SigLIP's text tower needs another tokenizer"),
            (["--random", "--config", "tiny", "--activation", "gelu"], "go with --source"),
            (["--random"], "needs --config, one of large, base, tiny"),
        ):
            with self.subTest(part):
                self.assert_refused(export_clip, ["--text", *arguments], part)

    def test_configurations_that_are_no_clip_s_text_are_refused(self) -> None:
        tensors = {"text_projection.weight": torch.zeros(24, 128)}
        for index, (change, part) in enumerate((
            ({"model_type": "clip_vision_model"}, "model_type is 'clip_vision_model' where 'clip' or 'clip_text_model'"),
            ({"vocab_size": 40}, "vocab_size is 40 where 49408 is needed"),
            ({"eos_token_id": 1}, "eos_token_id is 1 where 49407 or 2 is needed"),
            ({"hidden_act": "relu"}, "hidden_act is 'relu'"), ({"num_attention_heads": 5}, "5 heads do not divide the width 128"),
            ({"max_position_embeddings": 2}, "rows of 2 tokens hold no word"), ({"projection_dim": "24"}, "projection_dim is '24'"),
        )):
            with self.subTest(part):
                source = self.folder_of(str(index), change, tensors)
                self.assert_refused(export_clip, ["--text", "--source", source], "config.json", part)
        source = self.whole("two", text_config_dict={"hidden_act": "gelu"})
        parts = ("hidden_act is 'quick_gelu' in text_config and 'gelu' in text_config_dict",)
        self.assert_refused(export_clip, ["--text", "--source", source], *parts)

    def test_tensors_missing_extra_or_misshapen_are_named(self) -> None:
        source, norm, fc = self.folder / "clip.pt", "transformer.resblocks.0.ln_1.bias", "transformer.resblocks.0.mlp.c_fc.weight"
        state = openai_text_state(clip_text_state())
        for part, change in (
            ("lacks token_embedding.weight; --source must name a CLIP under OpenAI's names", {"token_embedding.weight": None}),
            (f"lacks {norm};", {norm: None}), ("lacks text_projection;", {"text_projection": None}),
            (f"lacks {fc};", {name: None for name in state if name.startswith("transformer.")}),
            ("holds text_bias, which", {"text_bias": torch.ones(1)}),
            ("holds transformer.resblocks.0.attn_mask", {"transformer.resblocks.0.attn_mask": torch.ones(12, 12)}),
            ("holds transformer.resblocks.0.ls_1.gamma", {"transformer.resblocks.0.ls_1.gamma": torch.ones(128)}),
            ("ln_final.weight has shape [64] where [128]", {"ln_final.weight": torch.ones(64)}),
            ("positional_embedding has shape [12, 64] where [12, 128]", {"positional_embedding": torch.ones(12, 64)}),
            ("text_projection has shape [24] where 2 dimensions", {"text_projection": torch.ones(24)}),
            ("token_embedding.weight has 5 rows where 49408", {"token_embedding.weight": torch.ones(5, 128)}),
            ("is 48 wide where a multiple of 64", {"token_embedding.weight": torch.ones(49408, 48)}),
            ("ln_final.bias holds NaN", {"ln_final.bias": torch.full([128], torch.nan)}),
        ):
            with self.subTest(part):
                tensors = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
                torch.save(tensors, source)
                self.assert_refused(export_clip, ["--text", "--source", source, "--activation", "gelu"], str(source), part)
        for name, change, part in (
            ("unprojected", {"text_projection.weight": None}, "lacks text_projection.weight"),
            ("extra", {"text_model.encoder.layers.2.layer_norm1.bias": torch.ones(128)}, "holds text_model.encoder.layers.2"),
        ):
            tensors = {key: tensor for key, tensor in {**clip_text_state(), **change}.items() if tensor is not None}
            self.assert_refused(export_clip, ["--text", "--source", self.folder_of(name, {}, tensors)], part)

    def test_the_wrong_kind_of_checkpoint_is_refused(self) -> None:
        source = self.folder / "hubert.pt"
        torch.save({"cfg": fairseq_config(LARGE_STYLE, True), "model": fairseq_state(hubert_state(LARGE_STYLE), False)}, source)
        self.assert_refused(export_clip, ["--text", "--source", source], "is a fairseq checkpoint")
        folder = write_folder(self.folder / "hubert", LARGE_STYLE, hubert_state(LARGE_STYLE))
        self.assert_refused(export_clip, ["--text", "--source", folder], "model_type is 'hubert'")
        self.assert_refused(export_clip, ["--source", self.folder_of("text")], "model_type is 'clip_text_model'")

    def test_nothing_is_written_above_a_tolerance(self) -> None:
        def blind(self, x: torch.Tensor) -> torch.Tensor:
            """`encode` without the causal mask."""
            x = x + self.position[:x.size(1)]
            for block in self.blocks:
                x = block(x)
            return x

        keywords, tiny = clip_text.ClipText.keywords, ["--text", "--random", "--config", "tiny"]
        with mock.patch.object(clip_text.ClipText, "encode", blind):
            part = "padded in a batch with alone" if NO_TRANSFORMERS else "with transformers"
            self.assert_refused(export_clip, tiny, part, "nothing was written", kind=ExportFailed)
            with mock.patch.object(export_clip, "transformers", lambda: None):
                self.assert_refused(export_clip, tiny, "f32 padded in a batch with alone", kind=ExportFailed)
        with mock.patch.object(clip_text.ClipText, "keywords", lambda self, vectors: keywords(self, vectors.flip(1))):
            self.assert_refused(export_clip, tiny, "f32 keywords with tokens", kind=ExportFailed)
        with mock.patch.dict(verify.ROUNDING, {torch.bfloat16: 1e-6}):
            self.assert_refused(export_clip, [*tiny, "--dtype", "bf16"], "bf16 with f32", kind=ExportFailed)
        model = clip_text.ClipText(clip_text.NAMED["tiny"], "", "").requires_grad_(False)
        torch.nn.init.zeros_(model.projection.weight)
        with self.assertRaisesRegex(ExportFailed, "the gradient of keywords is zero"):
            verify.text_gradients(model, verify.texts(77)[1])


@unittest.skipIf(NO_TORCH or NO_TRANSFORMERS, NO_TORCH or NO_TRANSFORMERS)
@unittest.skipUnless(os.environ.get("CMD_TEST_TRUE_SIZE"), "needs 2 GB of memory and minutes: set CMD_TEST_TRUE_SIZE=1")
class TrueSize(Texts):
    """ViT-L/14's text tower with random weights against transformers' own class."""

    def test_the_largest_difference_is_small(self) -> None:
        for dtype in ("f32", "bf16"):
            printed = export(export_clip, "--text", "--random", "--config", "large", "--dtype", dtype, "--out", self.out)
            print(f"\nexport_clip.py --text --random --config large --dtype {dtype}\n{printed}")
            (found,) = re.findall(r"f32 with transformers.*max difference (\S+)", printed)
            self.assertLess(float(found), 1e-4)
            self.assertIn("123,650,304 parameters", printed)


if __name__ == "__main__":
    unittest.main()
