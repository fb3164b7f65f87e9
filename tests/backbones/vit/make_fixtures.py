"""Write the folders beside this file: tiny vision transformers with random weights, and their outputs.

Each has the files of a published folder, and expected.npz: images uint8[2, 36, 36, 3], and for each layer and size of
input float32[2, D]. The input of a size is its first rows and columns, as value / 127.5 - 1. This needs torch and
transformers, and the files came from torch 2.15.0 (CPU) and transformers 5.24.0:

    python tests/backbones/vit/make_fixtures.py
"""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as t

SIZES = (24, 16, 36)  # the first is that of the config
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 4, "image_size": SIZES[0]}
HIDDEN = {"intermediate_size": 32}
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 16}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 4, "projection_dim": 16}
MODELS = {
    "vit": (t.ViTModel, t.ViTConfig(**TINY, **HIDDEN), torch.float16),
    "deit": (t.DeiTModel, t.DeiTConfig(**TINY, **HIDDEN), torch.float32),
    "clip": (
        t.CLIPModel,
        t.CLIPConfig(vision_config={**TINY, **HIDDEN, "projection_dim": 16}, text_config=TEXT, projection_dim=16),
        torch.float16,
    ),
    "siglip": (t.SiglipModel, t.SiglipConfig(vision_config={**TINY, **HIDDEN}, text_config=TEXT), torch.float16),
    "dinov2": (t.Dinov2Model, t.Dinov2Config(**TINY, mlp_ratio=1), torch.bfloat16),
    "dinov2_with_registers": (
        t.Dinov2WithRegistersModel,
        t.Dinov2WithRegistersConfig(**TINY, mlp_ratio=1, num_register_tokens=4),
        torch.bfloat16,
    ),
}
SQUARE, SHORTEST = {"height": 24, "width": 24}, {"shortest_edge": 28}
PROCESSORS = {
    "vit": t.ViTImageProcessorPil(size=SQUARE),
    "deit": t.DeiTImageProcessorPil(size={"height": 28, "width": 28}, crop_size=SQUARE),
    "clip": t.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=SQUARE),
    "siglip": t.SiglipImageProcessorPil(size=SQUARE),
    "dinov2": t.BitImageProcessorPil(size=SHORTEST, crop_size=SQUARE),
}


def compute_layers(model, pixels):
    """Return the value of each layer for pixels float32[N, 3, S, S]."""
    kind = model.config.model_type
    tower = getattr(model, "vision_model", model)
    extra = {} if kind.startswith("dinov2") else {"interpolate_pos_encoding": True}
    output = tower(pixels, **extra)
    tokens, first = output.last_hidden_state, {"deit": 2, "siglip": 0, "dinov2_with_registers": 5}.get(kind, 1)
    if kind == "clip":
        tokens = tower.post_layernorm(tokens)
        assert torch.allclose(tokens[:, 0], output.pooler_output, atol=1e-6)
    layers = {"mean": tokens[:, first:].mean(1)}
    if first:
        layers |= {"class": tokens[:, 0], "class+mean": torch.cat([tokens[:, 0], layers["mean"]], 1)}
    if kind == "clip":
        layers["pooled"] = model.visual_projection(output.pooler_output)
    elif not kind.startswith("dinov2"):
        layers["pooled"] = output.pooler_output
    return layers


@torch.no_grad()
def make(name, folder):
    """Write one folder."""
    kind, config, dtype = MODELS[name]
    torch.manual_seed(0)
    model = kind(config).eval()
    for parameter_name, parameter in model.named_parameters():
        is_scale = "norm" in parameter_name and parameter_name.endswith("weight") or "lambda" in parameter_name
        values = torch.randn(parameter.shape) * 0.3 + (1 if is_scale else 0)
        parameter.copy_(values.to(dtype).float())
    images = np.random.default_rng(0).integers(0, 256, (2, 36, 36, 3), np.uint8)
    expected = {"images": images}
    for size in SIZES:
        pixels = torch.tensor(images[:, :size, :size] / np.float32(127.5) - 1).permute(0, 3, 1, 2)
        expected |= {f"{layer} {size}": value.numpy() for layer, value in compute_layers(model, pixels).items()}
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder)
    PROCESSORS[name.removesuffix("_with_registers")].save_pretrained(folder)
    np.savez_compressed(folder / "expected.npz", **expected)


if __name__ == "__main__":
    for name in MODELS:
        make(name, Path(__file__).with_name(name))
