"""Golden vectors of L_sic with an image bank: row by row in PyTorch, without anything of this project.

    python tests/golden/make_bank.py        # needs torch and safetensors
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

# Name, batch, width, images in all, whether all of the bank stand there with those of the batch marked, other rows of an image.
CASES = (("all", 12, 16, 20, True, "positives"), ("some", 9, 24, 15, False, "positives"), ("masked", 10, 16, 30, True, "masked"))


def loss(speech, images, ids, bank, shown, inverse_tau, same_image):
    total, count = 0.0, len(ids)
    for row in range(count):
        rights = [float(ids[row] == other) if same_image == "positives" else float(row == k) for k, other in enumerate(ids)]
        kept = [same_image == "positives" or row == k or ids[row] != other for k, other in enumerate(ids)]
        right = torch.tensor(rights) / sum(rights)
        keep = torch.tensor(kept)
        beside = bank if shown is None else bank[~shown]
        columns = torch.cat([images[keep], beside])
        log_p = torch.log_softmax(columns @ speech[row] * inverse_tau, 0)
        total = total - (right[keep] * log_p[: keep.sum()]).sum() / count / 2
        log_p = torch.log_softmax(speech[keep] @ images[row] * inverse_tau, 0)
        total = total - (right[keep] * log_p).sum() / count / 2
    return total


def main() -> None:
    torch.manual_seed(11)
    for name, batch, width, count, is_all, same_image in CASES:
        pictures = F.normalize(torch.randn(count, width), dim=-1)
        ids = torch.randint(0, max(2, batch - 3), (batch,))
        images = pictures[ids]
        shown = torch.zeros(count, dtype=torch.bool)
        shown[ids] = True
        bank, mark = (pictures, shown) if is_all else (pictures[~shown], None)
        speech = F.normalize(images + 0.5 * torch.randn(batch, width), dim=-1).requires_grad_()
        log_inverse_tau = torch.tensor(math.log(1 / 0.09), requires_grad=True)
        total = loss(speech, images, ids.tolist(), bank, mark, log_inverse_tau.exp(), same_image)
        total.backward()
        tensors = {
            "in.speech": speech.detach(),
            "in.images": images,
            "in.ids": ids,
            "in.bank": bank,
            "in.log_inverse_tau": log_inverse_tau.detach().reshape(1),
            "out.loss": total.detach().reshape(1),
            "grad.speech": speech.grad,
            "grad.log_inverse_tau": log_inverse_tau.grad.reshape(1),
        }
        if mark is not None:
            tensors["in.shown"] = mark.long()
        case = json.dumps({"same_image": same_image})
        path = Path(__file__).with_name(f"bank_{name}.safetensors")
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(path), {"case": case})


if __name__ == "__main__":
    main()
