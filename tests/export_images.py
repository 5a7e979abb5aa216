"""What the tests of image encoders share: options, what a source's own preprocessing makes, and what every file must keep."""

from __future__ import annotations

import json

from export_sources import NO_TORCH, Exporting, export

if not NO_TORCH:
    import torch

    import export_clip
    from exporting import command, verify

OPENAI = ["--mean", "0.48145466,0.4578275,0.40821073", "--std", "0.26862954,0.26130258,0.27577711"]
HALVES = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
TEXT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 40,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}


def values(mean: list, std: list, size: int) -> torch.Tensor:
    """What a source's own preprocessing makes of `verify.images`."""
    return (verify.images(size).float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def shake(model: torch.nn.Module) -> torch.nn.Module:
    """In eval mode, its norms and biases no longer ones and zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


class Images(Exporting):
    size = 42

    def features(self) -> list:
        """CLS and patches of each image by the exported file."""
        return verify.image_features(torch.jit.load(str(self.out)), verify.images(self.size))

    def assert_keeps_the_contract(self, config: str, spec: dict, *options: object) -> None:
        """Random weights of `config` in every type give a file that says `spec`, and features of that form."""
        for dtype in ("f32", "bf16", "f16"):
            printed = export(export_clip, "--random", "--config", config, "--dtype", dtype, *options, "--out", self.out)
            self.assertIn("the file, read back, with the module: equal", printed)
            model = torch.jit.load(str(self.out))
            self.assertEqual(json.loads(model.spec()), {"format": 1, "modality": "image", "source": "random weights, seed 0", **spec})
            cls, patches = model(verify.images(spec["size"]))
            width, (rows, columns) = spec["width"], spec["grid"]
            self.assertEqual((cls.shape, patches.shape), ((4, width), (4, rows * columns, width)))
            self.assertEqual({cls.dtype, patches.dtype}, {command.DTYPES[dtype]})
            self.assertFalse(cls.requires_grad or patches.requires_grad)
