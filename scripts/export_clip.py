#!/usr/bin/env python3
"""Makes the frozen image encoder: CLIP's or SigLIP's ViT as one TorchScript file in the form of docs/encoders.md.

    python scripts/export_clip.py --source clip-vit-large-patch14 --out clip_large.pt        (a Hugging Face folder)
    python scripts/export_clip.py --source siglip-so400m-patch14-384 --out siglip.pt         (likewise)
    python scripts/export_clip.py --source ViT-L-14.pt --dtype bf16 --out clip_large.pt      (OpenAI's archive)
    python scripts/export_clip.py --source laion2b.pt --activation gelu --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --out clip_large.pt
    python scripts/export_clip.py --random --config tiny --out tiny_image.pt

Loads every tensor strictly, compares with transformers' CLIPVisionModelWithProjection or SiglipVisionModel (where that is
installed) and the file with the model, and writes nothing that differs. Sizes of --random: large is ViT-L/14, base is ViT-B/16.
Needs scripts/export_requirements.txt.
"""

from __future__ import annotations

import argparse
import sys
import time

try:
    import torch

    from exporting import clip, siglip, verify
    from exporting.checkpoint import Checkpoint, read
    from exporting.command import DTYPES, check_arguments, parameters, parser, run, say, say_loaded, say_written
    from exporting.errors import ExportError
    from exporting.pictures import Given, parse_colours
    from exporting.reference import ClipReference, SiglipReference, transformers
    from exporting.script_file import prepare, write
    from exporting.weights import fill, randomise
except (ImportError, OSError) as missing:
    print(f"error: PyTorch cannot be imported ({missing}): pip install -r scripts/export_requirements.txt", file=sys.stderr)
    sys.exit(2)

NAMED = {**clip.NAMED, **siglip.NAMED}
TITLES = {**clip.TITLES, **siglip.TITLES}


def load(checkpoint: Checkpoint, name: str, given: Given) -> tuple[torch.nn.Module, clip.ClipConfig | siglip.SiglipConfig]:
    """The model with the checkpoint's weights."""
    transposed: tuple[str, ...] = ()
    if checkpoint.form == "fairseq":
        raise ExportError(f"{checkpoint.path}: is a fairseq checkpoint; --source must name a CLIP (for HuBERT: export_hubert.py)")
    if checkpoint.form != "huggingface":
        config = clip.from_state_dict(checkpoint, given)
        table, ignored, transposed = clip.OPENAI, clip.OPENAI_IGNORED, clip.OPENAI_TRANSPOSED
    elif str(checkpoint.config.get("model_type")).startswith("siglip"):
        config = siglip.from_huggingface(checkpoint, given)
        table, ignored = siglip.HUGGINGFACE, siglip.HUGGINGFACE_IGNORED
        checkpoint.tensors = {key.removeprefix("vision_model."): tensor for key, tensor in checkpoint.tensors.items()}
    else:
        config = clip.from_huggingface(checkpoint, given)
        table, ignored = clip.HUGGINGFACE, clip.HUGGINGFACE_IGNORED
    describe(config)
    model = build(config, name, checkpoint.source)
    fill(model, checkpoint, table, ignored, transposed)
    say_loaded(checkpoint, ignored, model)
    return model, config


def build(config: clip.ClipConfig | siglip.SiglipConfig, name: str, source: str) -> torch.nn.Module:
    """The model, its weights yet to come."""
    return (siglip.Siglip if isinstance(config, siglip.SiglipConfig) else clip.Clip)(config, name, source)


def describe(config: clip.ClipConfig | siglip.SiglipConfig) -> None:
    say(f"  {config.sizes}; {config.grid} x {config.grid} patches; {config.activation}")
    for line in config.pictures.lines():
        say(f"  {line}")


def read_arguments() -> tuple[argparse.Namespace, Given]:
    result = parser(__doc__, NAMED)
    unsaid = "where the source does not say it, as a bare state dict"
    result.add_argument("--activation", choices=("quick_gelu", "gelu"), help=unsaid)
    for option in ("mean", "std"):
        more = f"of pixels from 0 to 1, {unsaid} or a folder without preprocessor_config.json"
        result.add_argument(f"--{option}", metavar="R,G,B", help=more)
    arguments = result.parse_args()
    check_arguments(arguments, NAMED)
    given = Given(arguments.activation, parse_colours("mean", arguments.mean), parse_colours("std", arguments.std))
    if arguments.random and given != Given():
        raise ExportError("--activation, --mean and --std: go with --source; --random has those of the published models")
    return arguments, given


def main() -> None:
    arguments, given = read_arguments()
    started, dtype = time.monotonic(), DTYPES[arguments.dtype]
    prepare(arguments.out)

    folder = None
    if arguments.random:
        config = NAMED[arguments.config]
        say(f"random weights of the sizes of {TITLES[arguments.config]}, seed {arguments.seed}")
        describe(config)
        source = f"random weights, seed {arguments.seed}"
        family = "" if arguments.config in siglip.NAMED else "clip-"
        model = build(config, arguments.name or f"{family}{arguments.config}-random", source)
        randomise(model, arguments.seed)
        say(f"  {parameters(model)} parameters")
    else:
        say(f"reading {arguments.source}")
        checkpoint = read(arguments.source)
        folder = arguments.source if checkpoint.form == "huggingface" else None
        model, config = load(checkpoint, arguments.name or arguments.source.resolve().stem, given)
        del checkpoint
    model.eval().requires_grad_(False)

    say("comparing")
    pixels = verify.images(config.size)
    features = verify.image_features(model, pixels)
    package = transformers()
    kind = SiglipReference if isinstance(config, siglip.SiglipConfig) else ClipReference
    if package is None:
        say(f"  with transformers' {kind.name}: left out, transformers is not installed")
    else:
        make = kind.from_folder if folder else kind.of
        reference = make(package, folder or model, config)
        expected = reference.features(pixels)
        for what, first in (("CLS", 0), ("patches", 1)):
            pairs = list(zip(features[first::2], expected[first::2]))
            verify.compare(f"f32 with transformers {package.__version__}, {what}", pairs, verify.TOLERANCES[torch.float32])
        if not arguments.random and folder is None:
            say("  (transformers' class with these weights; the source's own class is not run)")
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
