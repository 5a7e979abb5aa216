#!/usr/bin/env python3
"""Makes the frozen speech encoder: HuBERT as one TorchScript file in the form of docs/encoders.md.

    python scripts/export_hubert.py --source hubert-large-ll60k --out hubert_large.pt        (a Hugging Face folder)
    python scripts/export_hubert.py --source hubert_large_ll60k.pt --dtype bf16 --out hubert_large.pt      (fairseq's)
    python scripts/export_hubert.py --random --config tiny --out tiny_speech.pt

Loads every tensor strictly, compares with transformers' HubertModel (where that is installed), utterances in a padded batch with
the same alone, and the file with the model, and writes nothing that differs. Needs scripts/export_requirements.txt.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

try:
    import torch

    from exporting import hubert, verify
    from exporting.checkpoint import Checkpoint, read
    from exporting.command import DTYPES, check_arguments, parameters, parser, run, say, say_loaded, say_written
    from exporting.errors import ExportError
    from exporting.reference import HubertReference, transformers
    from exporting.script_file import prepare, write
    from exporting.weights import fill, fold_weight_norm, randomise
except (ImportError, OSError) as missing:
    print(f"error: PyTorch cannot be imported ({missing}): pip install -r scripts/export_requirements.txt", file=sys.stderr)
    sys.exit(2)


def load(checkpoint: Checkpoint, name: str, eps: float | None) -> tuple[hubert.Hubert, hubert.HubertConfig]:
    """The model with the checkpoint's weights."""
    if checkpoint.form == "huggingface":
        config = hubert.from_huggingface(checkpoint)
        table, ignored, position = hubert.HUGGINGFACE, hubert.HUGGINGFACE_IGNORED, "encoder.pos_conv_embed.conv"
        checkpoint.tensors = {key.removeprefix("hubert."): tensor for key, tensor in checkpoint.tensors.items()}
        if "do_normalize" not in checkpoint.preprocessor:
            family = "Base's, which takes them as they are" if config.group_norm else "Large's, which normalises them"
            say(f"  no preprocessor_config.json that says whether waveforms are normalised: the family is {family}")
    elif checkpoint.form == "fairseq":
        config = hubert.from_fairseq(checkpoint)
        table = hubert.FAIRSEQ_GROUP_NORM if config.group_norm else hubert.FAIRSEQ_LAYER_NORM
        ignored, position = hubert.FAIRSEQ_IGNORED, "encoder.pos_conv.0"
    else:
        raise ExportError(
            f"{checkpoint.path}: has no cfg of fairseq's beside its tensors; "
            "--source must name a fairseq HuBERT or a Hugging Face folder"
        )
    config = with_eps(config, eps)
    say(describe(config))
    fold_weight_norm(checkpoint, position)
    model = hubert.Hubert(config, name, checkpoint.source)
    fill(model, checkpoint, table, ignored)
    say_loaded(checkpoint, ignored, model)
    return model, config


def with_eps(config: hubert.HubertConfig, eps: float | None) -> hubert.HubertConfig:
    """With the eps of the command line, where one is given."""
    if eps is None:
        return config
    if not config.normalize:
        raise ExportError("--eps: this source takes waveforms as they are; leave it out")
    return replace(config, wave_eps=eps)


def describe(config: hubert.HubertConfig) -> str:
    family = "norm over time in the first convolution, masked" if config.group_norm else "layer norm in each convolution"
    waveforms = f"normalised (eps {config.wave_eps:g})" if config.normalize else "as they are"
    return (
        f"  {config.blocks + 1} hidden states of {config.width}, {config.heads} heads, "
        f"{'pre' if config.pre_norm else 'post'}-norm; {family}; waveforms {waveforms}"
    )


def read_arguments() -> argparse.Namespace:
    result = parser(__doc__, hubert.NAMED)
    result.add_argument("--eps", type=float, help=(
        "added to the variance of a waveform that is normalised (default: the source's, "
        f"{hubert.FAIRSEQ_WAVE_EPS:g} for fairseq's .pt, {hubert.HUGGINGFACE_WAVE_EPS:g} for a Hugging Face folder and --random)"
    ))
    arguments = result.parse_args()
    check_arguments(arguments, hubert.NAMED)
    if arguments.eps is not None and not 0 < arguments.eps < 1:
        raise ExportError(f"--eps {arguments.eps}: must be above 0 and below 1, like {hubert.FAIRSEQ_WAVE_EPS:g}")
    return arguments


def main() -> None:
    arguments = read_arguments()
    started, dtype = time.monotonic(), DTYPES[arguments.dtype]
    prepare(arguments.out)

    folder = None
    if arguments.random:
        config = with_eps(hubert.NAMED[arguments.config], arguments.eps)
        say(f"random weights of HuBERT's sizes, {arguments.config}, seed {arguments.seed}")
        say(describe(config))
        source = f"random weights, seed {arguments.seed}"
        model = hubert.Hubert(config, arguments.name or f"hubert-{arguments.config}-random", source)
        randomise(model, arguments.seed)
        say(f"  {parameters(model)} parameters")
    else:
        say(f"reading {arguments.source}")
        checkpoint = read(arguments.source)
        folder = arguments.source if checkpoint.form == "huggingface" else None
        model, config = load(checkpoint, arguments.name or arguments.source.resolve().stem, arguments.eps)
        del checkpoint
    model.eval().requires_grad_(False)

    say("comparing")
    waves = verify.speech_waves(config.min_samples, config.hop)
    alone = verify.speech_alone(model, waves)
    package = transformers()
    if package is None:
        say("  with transformers' HubertModel: left out, transformers is not installed")
    else:
        make = HubertReference.from_folder if folder else HubertReference.of
        reference = make(package, folder or model, config)
        for wave, states in zip(waves, alone):
            what = f"f32 with transformers {package.__version__}, {len(wave)} samples, {states.size(1)} frames"
            verify.compare(what, [(states, reference.hidden(wave))], verify.TOLERANCES[torch.float32])
        if not arguments.random and folder is None:
            say("  (transformers' class with these weights; fairseq's own class is not run)")
        del reference
    pairs = list(zip(verify.speech_padded(model, waves), alone))
    verify.compare(f"f32 padded in a batch with alone, {len(waves)} lengths", pairs, verify.TOLERANCES[torch.float32])
    if dtype != torch.float32:
        exact = alone
        alone = verify.cast(model, dtype, lambda cast: verify.speech_alone(cast, waves))
        if alone is not None:
            verify.compare(f"{arguments.dtype} with f32, alone", list(zip(alone, exact)), verify.ROUNDING[dtype])
            pairs = list(zip(verify.speech_padded(model, waves), alone))
            verify.compare(f"{arguments.dtype} padded in a batch with alone", pairs, verify.TOLERANCES[dtype])

    script = torch.jit.script(model)

    def same(other: torch.nn.Module, what: str) -> None:
        if alone is not None:
            verify.equal(what, list(zip(verify.speech_alone(other, waves), alone)))

    same(script, "TorchScript with the module")
    write(script, arguments.out, lambda reloaded: same(reloaded, "the file, read back, with the module"))
    say_written(arguments.out, started)


if __name__ == "__main__":
    run(main)
