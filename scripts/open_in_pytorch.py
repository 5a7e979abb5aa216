#!/usr/bin/env python3
"""Opens a checkpoint in PyTorch and ranks a split with it: what `cmd eval` does, in the classes of torch.nn.

    python scripts/open_in_pytorch.py runs/latest --manifest data/demo/manifest.jsonl --split test \\
        --speech assets/demo/speech_encoder.pt --image assets/demo/image_encoder.pt

Needs torch, safetensors, numpy and Pillow. For images of the encoder's size and WAV files of 16 bits at its rate.
"""

import argparse
import json
import wave
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F


class SpeechHead(nn.Module):
    def __init__(self, file: str) -> None:
        super().__init__()
        with safe_open(file, "pt") as checkpoint:
            config = json.loads(checkpoint.metadata()["config"])
            weights = {name: checkpoint.get_tensor(name) for name in checkpoint.keys()}
        if "head" in config:
            raise SystemExit(f"{file}: its head is cascaded (docs/words.md); this script opens the paper's")
        width, heads = config["speech_width"], config["heads"]
        self.normalize = config["normalize_layers"]
        self.layer_weights = nn.Parameter(torch.zeros(config["layers"]))
        self.cls = nn.Parameter(torch.zeros(width))
        self.transformer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.1, "gelu", batch_first=True)
        self.norm, self.proj = nn.LayerNorm(width), nn.Linear(width, config["width"])
        own = {name.removeprefix("speech."): tensor for name, tensor in weights.items() if name.startswith("speech.")}
        self.load_state_dict(own)

    def forward(self, hidden: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        states = F.layer_norm(hidden, hidden.shape[-1:]) if self.normalize else hidden
        x = (self.layer_weights.softmax(0)[:, None, None, None] * states).sum(0)
        x = torch.cat([self.cls.expand(len(x), 1, -1), x], 1)
        padding = torch.arange(x.shape[1])[None] > frames[:, None]
        x = self.norm(self.transformer(x, src_key_padding_mask=padding))
        return F.normalize(self.proj(x[:, 0]), dim=-1)


def read_wav(path: Path) -> torch.Tensor:
    with wave.open(str(path)) as file:
        return torch.from_numpy(np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    for name in ("manifest", "speech", "image"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)

    head = SpeechHead(str(arguments.run / "best" / "model.safetensors")).eval()
    speech, image = torch.jit.load(str(arguments.speech)), torch.jit.load(str(arguments.image))
    lines = [json.loads(line) for line in arguments.manifest.read_text().splitlines()]
    lines = [line for line in lines if line["split"] == arguments.split]
    root = arguments.manifest.parent
    images, utterances, owners = [], [], []
    for index, line in enumerate(lines):
        pixels = torch.from_numpy(np.array(Image.open(root / line["image"]).convert("RGB"))).permute(2, 0, 1)
        images.append(F.normalize(image(pixels[None])[0], dim=-1))
        for caption in line["captions"]:
            wave_form = read_wav(root / caption["audio"])
            utterances.append(head(*speech(wave_form[None], torch.tensor([len(wave_form)]))))
            owners.append(index)
    scores = torch.cat(utterances) @ torch.cat(images).T
    owners = torch.tensor(owners)
    right = scores.gather(1, owners[:, None])
    speech_ranks = (scores >= right).sum(1)
    own = owners[:, None] == torch.arange(len(lines))
    best = scores.masked_fill(~own, -2).amax(0)
    image_ranks = 1 + ((scores >= best) & ~own).sum(0)
    for name, ranks in (("speech -> image", speech_ranks), ("image -> speech", image_ranks)):
        print(name, " ".join(f"R@{k} {100 * (ranks <= k).float().mean():.4f}" for k in (1, 5, 10)))


if __name__ == "__main__":
    main()
