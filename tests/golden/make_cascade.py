"""Golden vectors of the cascaded head: PyTorch's own layers and the text encoder of tests/fixtures/text.pt, without anything else of this project.

    python tests/golden/make_cascade.py        # needs torch and safetensors
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
LAYERS, D, E, W, PATCHES = 3, 16, 12, 6, 5
# Name, batch, frames, heads, keywords, tokens, whether a whole transformer layer, temperature, alpha, rows of an image in a batch.
CASES = (
    ("transformer", 6, 9, 2, 3, 64, True, 0.1, 0.0, "positives"),
    ("attention", 7, 5, 1, 8, 64, False, 0.1, 0.0, "masked"),
    ("cmd", 8, 7, 4, 2, 17, True, 0.3, 0.5, "positives"),
)


def contrast(similarity, ids, same_image):
    same = ids[:, None] == ids[None, :]
    own = torch.eye(len(ids), dtype=torch.bool)
    target = same / same.sum(1, keepdim=True) if same_image == "positives" else own.float()

    def direction(logits):
        kept = logits if same_image == "positives" else logits.masked_fill(same & ~own, -1e30)
        return -(target * F.log_softmax(kept, -1)).sum(-1).mean()

    return (direction(similarity) + direction(similarity.T)) / 2


def main() -> None:
    for number, (name, batch, frames, heads, count, tokens, is_whole, temperature, alpha, same_image) in enumerate(CASES):
        torch.manual_seed(20 + number)
        tower = torch.jit.load(str(HERE.parent / "fixtures/text.pt"))
        ids, vectors = tower.vocabulary()
        chosen = torch.randperm(len(ids))[:tokens].sort().values
        ids, vectors = ids[chosen], vectors[chosen].detach()

        weights = torch.randn(LAYERS, requires_grad=True)
        cls = torch.randn(count, D, requires_grad=True)
        if is_whole:
            layer = nn.TransformerEncoderLayer(D, heads, 4 * D, 0.0, "gelu", batch_first=True)
            norm = nn.LayerNorm(D)
            attention, norm1 = layer.self_attn, layer.norm1
        else:
            attention, norm1 = nn.MultiheadAttention(D, heads, batch_first=True), nn.LayerNorm(D)
        projection = nn.Linear(D, W)
        batch_norm = nn.BatchNorm1d(count * W)
        query_norm, fc, fused_norm = nn.LayerNorm(E), nn.Linear(E, E), nn.LayerNorm(E)
        log_inverse_tau = torch.tensor(math.log(1 / 0.07), requires_grad=True)
        with torch.no_grad():
            for module in [attention, norm1, projection, fc, query_norm, fused_norm] + ([layer, norm] if is_whole else []):
                for parameter in module.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            batch_norm.weight.copy_(vectors.std(0).repeat(count) * (1 + 0.2 * torch.rand(count * W)))
            batch_norm.bias.copy_(vectors.mean(0).repeat(count) + 0.05 * torch.randn(count * W))

        hidden = torch.randn(LAYERS, batch, frames, D)
        lengths = torch.randint(1, frames + 1, (batch,))
        lengths[0] = frames
        image_cls, patches = torch.randn(batch, E), torch.randn(batch, PATCHES, E)
        image_ids = torch.randint(0, batch - 2, (batch,))

        def head(is_training):
            summed = (torch.softmax(weights, 0)[:, None, None, None] * F.layer_norm(hidden, (D,))).sum(0)
            x = torch.cat([cls.expand(batch, -1, -1), summed], 1)
            padding = torch.arange(frames + count)[None, :] >= (lengths + count)[:, None]
            if is_whole:
                x = norm(layer(x, src_key_padding_mask=padding))
            else:
                x = norm1(attention(x, x, x, key_padding_mask=padding)[0] + x)
            keywords = projection(x[:, :count])
            batch_norm.train(is_training)
            keywords = batch_norm(keywords.flatten(1)).view(batch, count, W)
            cosines = torch.stack([F.cosine_similarity(keywords[:, k, None], vectors[None], dim=-1) for k in range(count)], 1)
            best = cosines.argmax(-1)
            hard = F.one_hot(best, tokens).float()
            if is_training:
                soft = torch.softmax(cosines / temperature, -1)
                hard = hard + soft - soft.detach()
            return F.normalize(tower.keywords(hard @ vectors), dim=-1), ids[best]

        speech_cls, found = head(True)
        normal_cls = F.normalize(image_cls, dim=-1)
        sic = contrast(speech_cls @ normal_cls.T * log_inverse_tau.exp(), image_ids, same_image)
        query, keys = query_norm(speech_cls), query_norm(patches)
        attended = (torch.softmax(torch.einsum("be,bne->bn", query, keys) / E**0.5, -1)[:, :, None] * keys).sum(1)
        denoised = F.normalize(fused_norm(fc(attended) + attended), dim=-1)
        total = sic + alpha * contrast(speech_cls @ denoised.T * log_inverse_tau.exp(), image_ids, same_image)
        named = {
            "speech.layer_weights": weights, "speech.cls": cls, "log_inv_tau": log_inverse_tau,
            "speech.transformer.self_attn.in_proj_weight": attention.in_proj_weight,
            "speech.transformer.self_attn.in_proj_bias": attention.in_proj_bias,
            "speech.transformer.self_attn.out_proj.weight": attention.out_proj.weight,
            "speech.transformer.self_attn.out_proj.bias": attention.out_proj.bias,
            "speech.keywords.norm.weight": batch_norm.weight, "speech.keywords.norm.bias": batch_norm.bias,
        }
        modules = {"speech.transformer.norm1": norm1, "speech.proj": projection}
        if is_whole:
            modules |= {f"speech.transformer.{part}": getattr(layer, part) for part in ("linear1", "linear2", "norm2")}
            modules["speech.norm"] = norm
        if alpha:
            modules |= {"fusion.query_norm": query_norm, "fusion.fc": fc, "fusion.norm": fused_norm}
        for prefix, module in modules.items():
            named |= {f"{prefix}.weight": module.weight, f"{prefix}.bias": module.bias}
        gradients = torch.autograd.grad(total, list(named.values()))
        with torch.no_grad():
            evaluated, found_later = head(False)
        of_keywords = lambda tensor: tensor.view(count, W) if tensor.numel() == count * W else tensor
        tensors = {
            "in.hidden": hidden, "in.frames": lengths, "in.image_cls": image_cls, "in.patches": patches, "in.image_ids": image_ids,
            "in.tokens": ids, "out.speech_cls": speech_cls, "out.loss": total.view(1),
            "out.running_mean": of_keywords(batch_norm.running_mean), "out.running_var": of_keywords(batch_norm.running_var),
            "out.evaluated": evaluated, "out.evaluated_tokens": found_later,
        }
        for parameter, (key, value), gradient in zip(named.values(), named.items(), gradients):
            shape = (count, W) if key.startswith("speech.keywords") else value.shape
            tensors |= {f"param.{key}": value.view(shape), f"grad.{key}": gradient.view(shape)}
        case = {
            "heads": heads, "keywords": count, "feed_forward": is_whole, "temperature": temperature, "alpha": alpha, "same_image": same_image,
        }
        tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
        save_file(tensors, HERE / f"cascade_{name}.safetensors", {"case": json.dumps(case)})
        print(f"{name}: L {total.item():.6f}, {found.unique().numel()} tokens of {tokens}")


if __name__ == "__main__":
    main()
