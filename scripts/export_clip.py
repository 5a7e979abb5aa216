#!/usr/bin/env python3
"""Makes the frozen image encoder: CLIP's or SigLIP's ViT as one TorchScript file in the form of docs/encoders.md. With --text the
frozen text encoder: CLIP's text transformer.

    python scripts/export_clip.py --source clip-vit-large-patch14 --out clip_large.pt        (a Hugging Face folder)
    python scripts/export_clip.py --source siglip-so400m-patch14-384 --out siglip.pt         (likewise)
    python scripts/export_clip.py --source ViT-L-14.pt --dtype bf16 --out clip_large.pt      (OpenAI's archive)
    python scripts/export_clip.py --source laion2b.pt --activation gelu --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --out clip_large.pt
    python scripts/export_clip.py --random --config tiny --out tiny_image.pt
    python scripts/export_clip.py --text --source clip-vit-large-patch14 --out clip_large_text.pt

Loads every tensor strictly, compares with transformers' CLIPVisionModelWithProjection, SiglipVisionModel or
CLIPTextModelWithProjection (where that is installed) and the file with the model, and writes nothing that differs. Sizes of
--random: large is ViT-L/14, base is ViT-B/16.
Needs scripts/export_requirements.txt.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Callable, Union

try:
    import torch

    from exporting import clip, clip_text, siglip, verify
    from exporting.checkpoint import Checkpoint, read
    from exporting.command import DTYPES, check_arguments, parameters, parser, run, say, say_loaded, say_written
    from exporting.errors import ExportError
    from exporting.pictures import Given, parse_colours
    from exporting.reference import ClipReference, ClipTextReference, SiglipReference, transformers
    from exporting.script_file import prepare, write
    from exporting.weights import fill, randomise
except (ImportError, OSError) as missing:
    print(f"error: PyTorch cannot be imported ({missing}): pip install -r scripts/export_requirements.txt", file=sys.stderr)
    sys.exit(2)

NAMED = {**clip.NAMED, **siglip.NAMED}
TITLES = {**clip.TITLES, **siglip.TITLES}
Config = Union[clip.ClipConfig, siglip.SiglipConfig, clip_text.ClipTextConfig]
MODELS = {clip.ClipConfig: clip.Clip, siglip.SiglipConfig: siglip.Siglip, clip_text.ClipTextConfig: clip_text.ClipText}
REFERENCES = {clip.ClipConfig: ClipReference, siglip.SiglipConfig: SiglipReference, clip_text.ClipTextConfig: ClipTextReference}


def load(checkpoint: Checkpoint, name: str, given: Given, text: bool) -> tuple[torch.nn.Module, Config]:
    """The model with the checkpoint's weights."""
    transposed: tuple[str, ...] = ()
    kind = clip_text if text else clip
    if checkpoint.form == "fairseq":
        raise ExportError(f"{checkpoint.path}: is a fairseq checkpoint; --source must name a CLIP (for HuBERT: export_hubert.py)")
    if checkpoint.form != "huggingface":
        config = kind.from_state_dict(checkpoint, given)
        table, ignored, transposed = kind.OPENAI, kind.OPENAI_IGNORED, kind.OPENAI_TRANSPOSED
    elif str(checkpoint.config.get("model_type")).startswith("siglip") and not text:
        config = siglip.from_huggingface(checkpoint, given)
        table, ignored = siglip.HUGGINGFACE, siglip.HUGGINGFACE_IGNORED
        checkpoint.tensors = {key.removeprefix("vision_model."): tensor for key, tensor in checkpoint.tensors.items()}
    else:
        config = kind.from_huggingface(checkpoint, given)
        table, ignored = kind.HUGGINGFACE, kind.HUGGINGFACE_IGNORED
    describe(config)
    model = MODELS[type(config)](config, name, checkpoint.source)
    fill(model, checkpoint, table, ignored, transposed)
    say_loaded(checkpoint, ignored, model)
    return model, config


def draw(arguments: argparse.Namespace) -> tuple[torch.nn.Module, Config]:
    """The model with random weights."""
    named, titles = (clip_text.NAMED, clip_text.TITLES) if arguments.text else (NAMED, TITLES)
    config = named[arguments.config]
    say(f"random weights of the sizes of {titles[arguments.config]}, seed {arguments.seed}")
    describe(config)
    family = "" if arguments.config in siglip.NAMED else "clip-"
    name = arguments.name or f"{family}{arguments.config}{'-text' if arguments.text else ''}-random"
    model = MODELS[type(config)](config, name, f"random weights, seed {arguments.seed}")
    randomise(model, arguments.seed)
    say(f"  {parameters(model)} parameters")
    return model, config


def describe(config: Config) -> None:
    if isinstance(config, clip_text.ClipTextConfig):
        say(f"  {config.sizes}; {config.activation}")
        return
    say(f"  {config.sizes}; {config.grid} x {config.grid} patches; {config.activation}")
    for line in config.pictures.lines():
        say(f"  {line}")


def read_arguments() -> tuple[argparse.Namespace, Given]:
    result = parser(__doc__, NAMED)
    result.add_argument("--text", action="store_true", help="the text encoder, of a CLIP, in place of the image encoder")
    unsaid = "where the source does not say it, as a bare state dict"
    result.add_argument("--activation", choices=("quick_gelu", "gelu"), help=unsaid)
    for option in ("mean", "std"):
        more = f"of pixels from 0 to 1, {unsaid} or a folder without preprocessor_config.json"
        result.add_argument(f"--{option}", metavar="R,G,B", help=more)
    arguments = result.parse_args()
    check_arguments(arguments, clip_text.NAMED if arguments.text else NAMED)
    given = Given(arguments.activation, parse_colours("mean", arguments.mean), parse_colours("std", arguments.std))
    if arguments.random and given != Given():
        raise ExportError("--activation, --mean and --std: go with --source; --random has those of the published models")
    if arguments.text and (given.mean or given.std):
        raise ExportError("--mean and --std: are of pictures; leave them out with --text")
    if arguments.text and arguments.config in siglip.NAMED:
        raise ExportError(f"--config {arguments.config}: {clip_text.ANOTHER_TOKENIZER}")
    return arguments, given


def compare_with_source(
    model: torch.nn.Module, config: Config, folder: Path | None, random: bool, inputs: torch.Tensor,
    features: list[torch.Tensor], parts: tuple[str, ...],
) -> None:
    """Holds the features of `inputs`, in turn those of each of `parts`, against transformers' class; `folder`: of Hugging Face."""
    package, kind = transformers(), REFERENCES[type(config)]
    if package is None:
        say(f"  with transformers' {kind.name}: left out, transformers is not installed")
        return
    expected = (kind.from_folder if folder else kind.of)(package, folder or model, config).features(inputs)
    for first, what in enumerate(parts):
        pairs = list(zip(features[first::len(parts)], expected[first::len(parts)]))
        verify.compare(f"f32 with transformers {package.__version__}, {what}", pairs, verify.TOLERANCES[torch.float32])
    if not random and folder is None:
        say("  (transformers' class with these weights; the source's own class is not run)")


Same = Callable[[torch.nn.Module, str], None]
"""Compares another module with the model in the file's precision."""


def compare_images(model: torch.nn.Module, config: Any, folder: Path | None, arguments: argparse.Namespace) -> Same:
    """Brings the image model to the file's precision."""
    dtype = DTYPES[arguments.dtype]
    pixels = verify.images(config.size)
    features = verify.image_features(model, pixels)
    compare_with_source(model, config, folder, arguments.random, pixels, features, ("CLS", "patches"))
    single = [feature for row in range(len(pixels)) for feature in verify.image_features(model, pixels[row:row + 1])]
    verify.compare("f32 in a batch with alone", list(zip(features, single)), verify.TOLERANCES[torch.float32])
    if dtype != torch.float32:
        exact = features
        features = verify.cast(model, dtype, lambda cast: verify.image_features(cast, pixels))
        if features is not None:
            verify.compare(f"{arguments.dtype} with f32", list(zip(features, exact)), verify.ROUNDING[dtype])

    def same(other: torch.nn.Module, what: str) -> None:
        if features is not None:
            verify.equal(what, list(zip(verify.image_features(other, pixels), features)))

    return same


def compare_texts(model: torch.nn.Module, config: Any, folder: Path | None, arguments: argparse.Namespace) -> Same:
    """Brings the text model to the file's precision."""
    dtype = DTYPES[arguments.dtype]
    rows, worded = verify.texts(config.context)
    padded = verify.text_padded(rows)

    def compare_ways(kind: str, features: list[torch.Tensor]) -> None:
        """Rows that are padded, and vectors in the place of tokens, with the same rows alone."""
        for what, others in (
            ("padded in a batch with alone", verify.text_features(model, padded)),
            ("keywords with tokens", verify.text_keywords(model, worded)),
        ):
            verify.compare(f"{kind} {what}", list(zip(others, features)), verify.TOLERANCES[DTYPES[kind]])

    features = verify.text_alone(model, rows)
    compare_with_source(model, config, folder, arguments.random, padded, features, ("embeddings",))
    compare_ways("f32", features)
    if dtype != torch.float32:
        exact = features
        features = verify.cast(model, dtype, lambda cast: verify.text_alone(cast, rows))
        if features is not None:
            verify.compare(f"{arguments.dtype} with f32", list(zip(features, exact)), verify.ROUNDING[dtype])
            compare_ways(arguments.dtype, features)

    def outputs(one: torch.nn.Module) -> list[torch.Tensor]:
        return [*verify.text_alone(one, rows), one(padded), *verify.text_keywords(one, worded), *one.vocabulary()]

    def same(other: torch.nn.Module, what: str) -> None:
        if features is not None:
            verify.equal(what, list(zip(outputs(other), outputs(model))))
            gradients = [verify.text_gradients(one, worded) for one in (other, model)]
            verify.compare(f"{what}, gradient of keywords", list(zip(*gradients)), verify.TOLERANCES[dtype])

    return same


def main() -> None:
    arguments, given = read_arguments()
    started, folder = time.monotonic(), None
    prepare(arguments.out)

    if arguments.random:
        model, config = draw(arguments)
    else:
        say(f"reading {arguments.source}")
        checkpoint = read(arguments.source)
        folder = arguments.source if checkpoint.form == "huggingface" else None
        model, config = load(checkpoint, arguments.name or arguments.source.resolve().stem, given, arguments.text)
        del checkpoint
    model.eval().requires_grad_(False)

    say("comparing")
    same = (compare_texts if arguments.text else compare_images)(model, config, folder, arguments)
    script = torch.jit.script(model)
    same(script, "TorchScript with the module")
    write(script, arguments.out, lambda reloaded: same(reloaded, "the file, read back, with the module"))
    say_written(arguments.out, started)


if __name__ == "__main__":
    run(main)
