"""Golden vectors of L_sic with an image bank and with a teacher: row by row in PyTorch, without anything of this project.

    python tests/golden/make_bank.py        # needs torch and safetensors
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

# Name, batch, width, images in all (0: no bank), whether all of the bank stand there with those of the batch marked, other rows of an image, the
# teacher's part.
CASES = (
    ("all", 12, 16, 20, True, "positives", 0),
    ("some", 9, 24, 15, False, "positives", 0),
    ("masked", 10, 16, 30, True, "masked", 0),
    ("taught", 11, 16, 0, True, "positives", 0.4),
    ("taught_all", 12, 16, 20, True, "positives", 0.3),
    ("taught_masked", 10, 24, 30, False, "masked", 0.7),
)


def loss(speech, images, ids, bank, shown, inverse_tau, same_image, teacher, part):
    total, count = 0.0, len(ids)
    for row in range(count):
        rights = [float(ids[row] == other) if same_image == "positives" else float(row == k) for k, other in enumerate(ids)]
        kept = [same_image == "positives" or row == k or ids[row] != other for k, other in enumerate(ids)]
        right = torch.tensor(rights) / sum(rights)
        keep = torch.tensor(kept)
        beside = bank if shown is None else bank[~shown]
        columns = torch.cat([images[keep], beside])
        log_p = torch.log_softmax(columns @ speech[row] * inverse_tau, 0)
        judged = torch.softmax(columns @ teacher[row] * inverse_tau.detach(), 0)
        right_columns = torch.cat([right[keep], torch.zeros(len(beside))])
        total = total - (((1 - part) * right_columns + part * judged) * log_p).sum() / count / 2
        log_p = torch.log_softmax(speech[keep] @ images[row] * inverse_tau, 0)
        judged = torch.softmax(teacher[keep] @ images[row] * inverse_tau.detach(), 0)
        total = total - (((1 - part) * right[keep] + part * judged) * log_p).sum() / count / 2
    return total


def main() -> None:
    torch.manual_seed(11)
    for name, batch, width, count, is_all, same_image, part in CASES:
        pictures = F.normalize(torch.randn(count or batch, width), dim=-1)
        ids = torch.randint(0, max(2, batch - 3), (batch,))
        images = pictures[ids]
        shown = torch.zeros(len(pictures), dtype=torch.bool)
        shown[ids] = True
        bank, mark = (pictures, shown) if is_all else (pictures[~shown], None)
        if not count:
            bank, mark = pictures[:0], None
        speech = F.normalize(images + 0.5 * torch.randn(batch, width), dim=-1).requires_grad_()
        log_inverse_tau = torch.tensor(math.log(1 / 0.09), requires_grad=True)
        # Drawn for taught cases alone: the others are as they were.
        teacher = F.normalize(speech.detach() + 0.3 * torch.randn(batch, width), dim=-1) if part else speech.detach()
        total = loss(speech, images, ids.tolist(), bank, mark, log_inverse_tau.exp(), same_image, teacher, part)
        total.backward()
        tensors = {
            "in.speech": speech.detach(),
            "in.images": images,
            "in.ids": ids,
            "in.log_inverse_tau": log_inverse_tau.detach().reshape(1),
            "out.loss": total.detach().reshape(1),
            "grad.speech": speech.grad,
            "grad.log_inverse_tau": log_inverse_tau.grad.reshape(1),
        }
        if count:
            tensors["in.bank"] = bank
        if mark is not None:
            tensors["in.shown"] = mark.long()
        if part:
            tensors["in.teacher"] = teacher
        case = json.dumps({"same_image": same_image, "part": part})
        path = Path(__file__).with_name(f"bank_{name}.safetensors")
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(path), {"case": case})


if __name__ == "__main__":
    main()
