"""The program's second update done again in PyTorch, from its checkpoint after the first: the same batch, noise and moments,
without dropout. Prints one line of JSON: the losses, the gradient's norm, the largest difference of a weight after the update.

    .venv-export/bin/python bench/check.py --settings FILE --manifest FILE --threads 2 --run FOLDER
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import torch
from draws import noise_source
from model import Model, adam, update
from pytorch_loop import Features
from reading import Samples, collate
from safetensors.torch import load_file
from samples import Split

# The update that is repeated, counted from 0.
STEP = 1
KEY_BIAS = "speech.transformer.self_attn.in_proj_bias"


def restore(model: Model, checkpoint: Path, settings: dict) -> torch.optim.Adam:
    """Gives `model` the weights of a checkpoint, and an optimizer its moments."""
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    moments, optimizer = load_file(checkpoint / "optimizer.safetensors"), adam(model, settings)
    for name, parameter in model.named_parameters():
        kept = {moment: moments[f"{moment}.{name}"] for moment in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(float(STEP)), **kept}
    return optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, required=True, help="JSON: the run's effective configuration, by section.key")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--run", type=Path, required=True, help="a run with a checkpoint after each of its first two updates")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = json.loads(arguments.settings.read_text())
    split, features = Split.read(arguments.manifest), Features(settings)
    samples = Samples(split, settings, features.image_spec["size"])
    order = split.batches(settings["train.batch_size"], settings["train.seed"])
    batch = collate([samples[sample] for sample in next(islice(order, STEP, None))])
    speech, image = features(batch)

    model = Model(features.speech_spec["layers"], features.speech_spec["width"], features.image_spec["width"], settings)
    optimizer = restore(model, arguments.run / "checkpoints/step-000001", settings)
    patches, ids = image[1].shape[1], batch.images.tolist()
    source = torch.tensor(noise_source(ids, patches, settings["noise.ratio"], settings["train.seed"], STEP))
    loss, sic, cmd = model(speech, image, batch.images, source)
    norm = update(model, optimizer, loss, STEP, settings)

    after = load_file(arguments.run / "checkpoints/step-000002/model.safetensors")
    differences = {name: (parameter.detach() - after[name]).abs() for name, parameter in model.named_parameters()}
    # The gradient of the key bias is 0 in the program and rounding noise in torch.nn, which Adam makes as large as any other.
    differences[KEY_BIAS].view(3, -1)[1] = 0
    figures = {"loss": loss, "loss_sic": sic, "loss_cmd": cmd}
    figures = {name: value.item() for name, value in figures.items()} | {"grad_norm": norm}
    largest = max(difference.max().item() for difference in differences.values())
    print(json.dumps({**figures, "weights": largest}))


if __name__ == "__main__":
    main()
