"""What the tests of the text encoder share: tiny text towers in each format's names, and what an exported file makes of rows."""

from __future__ import annotations

from export_sources import NO_TORCH, Exporting, draw, hang, layers, openai_layers, openai_transformer

if not NO_TORCH:
    import torch
    from torch import nn

    from exporting import verify

CLIP_TEXT = {
    "model_type": "clip_text_model", "vocab_size": 49408, "hidden_size": 128, "intermediate_size": 96, "projection_dim": 24,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 12, "hidden_act": "quick_gelu",
}


def clip_text_state(config: dict = CLIP_TEXT) -> dict:
    """Weights under transformers' names."""
    width = config["hidden_size"]
    shapes = {
        "text_model.embeddings.token_embedding.weight": (config["vocab_size"], width),
        "text_model.embeddings.position_embedding.weight": (config["max_position_embeddings"], width),
        "text_projection.weight": (config["projection_dim"], width),
    }
    return draw(shapes | layers("text_model.encoder.layers", config, {}, ["text_model.final_layer_norm"]), seed=1)


def openai_text_state(state: dict) -> dict:
    """The same under OpenAI's names."""
    return {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        **{f"ln_final.{leaf}": state[f"text_model.final_layer_norm.{leaf}"] for leaf in ("weight", "bias")},
        **openai_layers(state, "text_model.encoder.layers", "transformer.resblocks", CLIP_TEXT["num_hidden_layers"]),
    }


def text_archive(tensors: dict, activation: str) -> torch.jit.ScriptModule:
    """A TorchScript archive whose state_dict is `tensors`, with OpenAI's `encode_text`."""
    length, dtype = tensors["positional_embedding"].size(0), tensors["positional_embedding"].dtype

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            mask = torch.full([length, length], -torch.inf, dtype=dtype).triu(1)
            self.transformer = openai_transformer(CLIP_TEXT, activation, mask)
            self.token_embedding = nn.Embedding(CLIP_TEXT["vocab_size"], CLIP_TEXT["hidden_size"])
            self.ln_final = nn.LayerNorm(CLIP_TEXT["hidden_size"])

        def encode_text(self, text):
            x = self.token_embedding(text) + self.positional_embedding
            x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
            return self.ln_final(x)[torch.arange(x.shape[0]), text.argmax(-1)] @ self.text_projection

    return torch.jit.trace_module(hang(Tower(), tensors).eval(), {"encode_text": padded(length)})


def padded(context: int = CLIP_TEXT["max_position_embeddings"]) -> torch.Tensor:
    """`verify.texts` as ids [B, C]."""
    return verify.text_padded(verify.texts(context)[0])


class Texts(Exporting):
    def encoder(self) -> torch.jit.ScriptModule:
        return torch.jit.load(str(self.out))

    def features(self) -> list:
        """The embedding of each row by the exported file."""
        with torch.no_grad():
            return verify.text_features(self.encoder(), padded())
