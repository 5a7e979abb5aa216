#!/usr/bin/env python3
"""Makes the frozen image encoder: CLIP's ViT as one TorchScript file in the form of docs/encoders.md.

    python scripts/export_clip.py --source clip-vit-large-patch14 --out clip_large.pt        (a Hugging Face folder)
    python scripts/export_clip.py --source ViT-L-14.pt --dtype bf16 --out clip_large.pt      (OpenAI's)
    python scripts/export_clip.py --random --config tiny --out tiny_image.pt

Loads every tensor strictly, compares with transformers' CLIPVisionModelWithProjection (where that is installed) and the file with
the model, and writes nothing that differs. Sizes of --random: large is ViT-L/14, base is ViT-B/16. Needs
scripts/export_requirements.txt.
"""

from __future__ import annotations

import sys
import time

try:
    import torch

    from exporting import clip, verify
    from exporting.checkpoint import Checkpoint, read
    from exporting.command import DTYPES, check_arguments, parameters, parser, run, say, say_loaded, say_written
    from exporting.errors import ExportError
    from exporting.reference import ClipReference, transformers
    from exporting.script_file import prepare, write
    from exporting.weights import fill, randomise
except (ImportError, OSError) as missing:
    print(f"error: PyTorch cannot be imported ({missing}): pip install -r scripts/export_requirements.txt", file=sys.stderr)
    sys.exit(2)


def load(checkpoint: Checkpoint, name: str, activation: str | None) -> tuple[clip.Clip, clip.ClipConfig]:
    """The model with the checkpoint's weights."""
    if checkpoint.form == "huggingface":
        if activation is not None:
            raise ExportError("--activation: goes with a .pt file; a Hugging Face folder names its own in config.json")
        config = clip.from_huggingface(checkpoint)
        table, ignored, transposed = clip.HUGGINGFACE, clip.HUGGINGFACE_IGNORED, ()
    elif checkpoint.form == "openai":
        config = clip.from_openai(checkpoint, activation != "gelu")
        table, ignored, transposed = clip.OPENAI, clip.OPENAI_IGNORED, clip.OPENAI_TRANSPOSED
    else:
        raise ExportError(f"{checkpoint.path}: is a fairseq checkpoint; --source must name a CLIP (for HuBERT: export_hubert.py)")
    say(describe(config))
    model = clip.Clip(config, name, checkpoint.source)
    fill(model, checkpoint, table, ignored, transposed)
    say_loaded(checkpoint, ignored, model)
    return model, config


def describe(config: clip.ClipConfig) -> str:
    return (
        f"  images of {config.size}, {config.grid} x {config.grid} patches of {config.patch}; "
        f"{config.blocks} layers of {config.width}, {config.heads} heads, "
        f"{'QuickGELU' if config.quick_gelu else 'GELU'}, projected to {config.shared}"
    )


def main() -> None:
    arguments = parser(__doc__, clip.NAMED)
    arguments.add_argument(
        "--activation", choices=("quick_gelu", "gelu"),
        help="of a .pt file, which does not name it: quick_gelu in OpenAI's weights (default), gelu in most of open_clip's",
    )
    arguments = arguments.parse_args()
    started, dtype = time.monotonic(), DTYPES[arguments.dtype]
    check_arguments(arguments)
    prepare(arguments.out)

    folder = None
    if arguments.random:
        if arguments.activation is not None:
            raise ExportError("--activation: goes with --source and a .pt file")
        config = clip.NAMED[arguments.config]
        say(f"random weights of the sizes of {clip.TITLES[arguments.config]}, seed {arguments.seed}")
        say(describe(config))
        source = f"random weights, seed {arguments.seed}"
        model = clip.Clip(config, arguments.name or f"clip-{arguments.config}-random", source)
        randomise(model, arguments.seed)
        say(f"  {parameters(model)} parameters")
    else:
        say(f"reading {arguments.source}")
        checkpoint = read(arguments.source)
        folder = arguments.source if checkpoint.form == "huggingface" else None
        model, config = load(checkpoint, arguments.name or arguments.source.resolve().stem, arguments.activation)
        del checkpoint
    model.eval().requires_grad_(False)

    say("comparing")
    pixels = verify.images(config.size)
    features = verify.image_features(model, pixels)
    package = transformers()
    if package is None:
        say("  with transformers' CLIPVisionModelWithProjection: left out, transformers is not installed")
    else:
        make = ClipReference.from_folder if folder else ClipReference.of
        reference = make(package, folder or model, config)
        expected = reference.features(pixels)
        for what, first in (("CLS", 0), ("patches", 1)):
            pairs = list(zip(features[first::2], expected[first::2]))
            verify.compare(f"f32 with transformers {package.__version__}, {what}", pairs, verify.TOLERANCES[torch.float32])
        if not arguments.random and folder is None:
            say("  (transformers' class with these weights; OpenAI's own class is not run)")
        del reference
    single = [feature for row in range(len(pixels)) for feature in verify.image_features(model, pixels[row:row + 1])]
    verify.compare("f32 in a batch with alone", list(zip(features, single)), verify.TOLERANCES[torch.float32])
    if dtype != torch.float32:
        exact = features
        features = verify.cast(model, dtype, lambda cast: verify.image_features(cast, pixels))
        if features is not None:
            verify.compare(f"{arguments.dtype} with f32", list(zip(features, exact)), verify.ROUNDING[dtype])

    script = torch.jit.script(model)

    def same(other: torch.nn.Module, what: str) -> None:
        if features is not None:
            verify.equal(what, list(zip(verify.image_features(other, pixels), features)))

    same(script, "TorchScript with the module")
    write(script, arguments.out, lambda reloaded: same(reloaded, "the file, read back, with the module"))
    say_written(arguments.out, started)


if __name__ == "__main__":
    run(main)
