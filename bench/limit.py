"""The frozen forwards alone, on the batches of a training and in the program's chunks: no step that encodes can be faster. Prints
one line of JSON.

    .venv-export/bin/python bench/limit.py --settings FILE --manifest FILE --steps 10 --threads 2 [--images]
"""

import argparse
import json
import time
from itertools import islice
from pathlib import Path

import torch
from reading import Batch, Samples, collate
from samples import Split, chunks

WARM_UP = 2


def forwards(batch: Batch, settings: dict, speech: torch.jit.ScriptModule, image: torch.jit.ScriptModule | None) -> float:
    """Seconds of all forwards of a batch; what they are given is made before."""
    lengths = batch.lengths.tolist()
    heard = []
    for rows in chunks(lengths, settings["encoders.speech.batch_size"], settings["encoders.speech.spread"]):
        longest = max(lengths[row] for row in rows)
        heard.append((batch.waveforms[rows, :longest].contiguous(), batch.lengths[rows]))
    seen = [] if image is None else batch.pixels.split(settings["encoders.image.batch_size"])
    begun = time.perf_counter()
    for waveforms, valid in heard:
        speech(waveforms, valid)
    for pixels in seen:
        image(pixels)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, required=True, help="JSON: the program's effective configuration, by section.key")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True, help="batches that are timed, after two that are not")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--images", action="store_true", help="the image encoder's forwards too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # As the program loads encoders.
    torch._C._set_graph_executor_optimize(False)
    settings = json.loads(arguments.settings.read_text())
    speech = torch.jit.load(settings["encoders.speech.path"])
    image = torch.jit.load(settings["encoders.image.path"]) if arguments.images else None
    split = Split.read(arguments.manifest)
    size = json.loads(image.spec())["size"] if image else 0
    samples = Samples(split, settings, size, pictures=image is not None)
    order = split.batches(settings["train.batch_size"], settings["train.seed"])
    with torch.no_grad():
        batches = (collate([samples[sample] for sample in batch]) for batch in islice(order, WARM_UP + arguments.steps))
        seconds = [forwards(batch, settings, speech, image) for batch in batches]
    print(json.dumps({"step_seconds": seconds[WARM_UP:]}))


if __name__ == "__main__":
    main()
