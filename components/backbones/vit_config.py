"""The families of published vision transformers: names of their tensors, and the values of a config.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.backbones.network import Resize
from components.backbones.spec import BOTH, CLASS, POOLED
from components.backbones.vit_weights import read_object
from components.errors import UserError

# A name of ours, and the names in files of vit and deit, of dinov2, of clip and siglip.
NAMES = """
class     embeddings.cls_token                   embeddings.cls_token                   embeddings.class_embedding
positions embeddings.position_embeddings         embeddings.position_embeddings         embeddings.position_embedding
patches   embeddings.patch_embeddings.projection embeddings.patch_embeddings.projection embeddings.patch_embedding
block     encoder.layer                          encoder.layer                          encoder.layers
norm1     layernorm_before                       norm1                                  layer_norm1
query     attention.attention.query              attention.attention.query              self_attn.q_proj
key       attention.attention.key                attention.attention.key                self_attn.k_proj
value     attention.attention.value              attention.attention.value              self_attn.v_proj
out       attention.output.dense                 attention.output.dense                 self_attn.out_proj
norm2     layernorm_after                        norm2                                  layer_norm2
fc1       intermediate.dense                     mlp.fc1                                mlp.fc1
fc2       output.dense                           mlp.fc2                                mlp.fc2
norm      layernorm                              layernorm                              post_layernorm
"""


class Family(NamedTuple):
    """The column of NAMES, what follows from the publication, and defaults of config.json.

    layer is under its linear head, pool the tensor of POOLED, prefix that of all tensors in some files.
    """

    column: int
    layer: str
    pool: str
    prefix: str
    processor: str
    patch_size: int
    hidden_act: str
    layer_norm_eps: float

    @property
    def names(self) -> dict[str, str]:
        """The names in files by our names."""
        return {row.split()[0]: row.split()[self.column] for row in NAMES.strip().splitlines()}


FAMILIES = {
    # Dosovitskiy et al. 2021 (arXiv:2010.11929), 3.1: the head takes the class token.
    "vit": Family(1, CLASS, "pooler.dense", "vit.", "ViT", 16, "gelu", 1e-12),
    # Touvron et al. 2021 (arXiv:2012.12877), 4: the distillation token is for the labels of a teacher.
    "deit": Family(1, CLASS, "pooler.dense", "deit.", "DeiT", 16, "gelu", 1e-12),
    # Radford et al. 2021 (arXiv:2103.00020), A.3: linear heads take the features before the projection.
    "clip": Family(3, CLASS, "visual_projection", "vision_model.", "CLIP", 32, "quick_gelu", 1e-5),
    # Zhai et al. 2023 (arXiv:2303.15343): no class token; attention pools the features of an image.
    "siglip": Family(3, POOLED, "head", "vision_model.", "Siglip", 16, "gelu_pytorch_tanh", 1e-6),
    # Oquab et al. 2023 (arXiv:2304.07193): linear heads take the class token and the mean of the patch tokens.
    "dinov2": Family(2, BOTH, "", "dinov2.", "Bit", 14, "gelu", 1e-6),
    # Darcet et al. 2023 (arXiv:2309.16588) evaluate as DINOv2.
    "dinov2_with_registers": Family(2, BOTH, "", "dinov2_with_registers.", "Bit", 16, "gelu", 1e-6),
}
# Processors by the start of their names: resample, whether a size is of both sides, whether they crop, by default.
PROCESSORS = {"ViT": (2, True, False), "DeiT": (3, True, True), "Siglip": (3, False, False)}
PROCESSORS |= dict.fromkeys(("CLIP", "Bit"), (3, False, True))
KERNELS = {1: "lanczos3", 2: "triangle", 3: "keyscubic"}  # by the numbers of Pillow
STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True}
ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "quick_gelu")
Pixels = tuple[Resize, int, np.ndarray, np.ndarray]
SIZES = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SIZES |= {"image_size": 224, "patch_size": 16, "num_channels": 3, "num_register_tokens": 4}


def read_config(folder: Path, shown: str) -> dict[str, Any]:
    """Return the values of a config.json with the defaults of its family, and model_type as the name of the family.

    Raises UserError for another family, and for values that its networks cannot have.
    """
    config = read_object(folder, "config.json", shown)
    kind = str(config.get("model_type")).removesuffix("_vision_model")
    if kind not in FAMILIES:
        raise UserError(f"'{shown}' has the model_type '{kind[:100]}': expected one of {', '.join(FAMILIES)}.")
    values = {**SIZES, **FAMILIES[kind]._asdict(), **config}
    for part in ("vision_config", "vision_config_dict"):  # of a model with a text tower
        values |= config[part] if isinstance(config.get(part), dict) else {}
    ratio = values.get("mlp_ratio", 4)
    if kind.startswith("dinov2") and type(ratio) in (int, float) and 0 < ratio < 100:
        values["intermediate_size"] = int(values["hidden_size"] * ratio)
    fits = {name: type(values[name]) is int and 0 < values[name] < 2**20 for name in SIZES}
    if all(fits.values()):
        fits["num_attention_heads"] = values["hidden_size"] % values["num_attention_heads"] == 0
        fits["patch_size"] = values["patch_size"] <= values["image_size"]
        fits["num_channels"] = values["num_channels"] == 3
    fits["hidden_act"] = values["hidden_act"] in ACTIVATIONS
    fits["layer_norm_eps"] = type(values["layer_norm_eps"]) is float and 0 < values["layer_norm_eps"] < 1
    for name, usual in {"qkv_bias": True, "pooler_act": "tanh", "use_swiglu_ffn": False}.items():
        fits[name] = values.setdefault(name, usual) == usual
    for name in (name for name, is_fit in fits.items() if not is_fit):
        raise UserError(f"'{shown}/config.json' has {name} {values[name]!r}: expected a value of a {kind} network.")
    return {**values, "model_type": kind}


def read_preprocessing(folder: Path, shown: str, kind: str, size: int | None) -> Pixels:
    """Return (resize, size, shift, divisor) of a Network as preprocessor_config.json has them.

    A size in place of the published one scales the resize too. Raises UserError for a step that is not known here.
    """
    values = read_object(folder, "preprocessor_config.json", shown)
    name = (
        values.get("image_processor_type") or values.get("feature_extractor_type") or f"{FAMILIES[kind].processor}Image"
    )
    start = re.match("(ViT|DeiT|Siglip|CLIP|Bit)(Image|Feature)", str(name))
    resample, is_square, crops = PROCESSORS[start[1] if start else FAMILIES[kind].processor]
    edge: Any = values.get("size")
    crop, rescale = values.get("crop_size"), values.get("rescale_factor", 1 / 255)
    if isinstance(edge, dict):
        is_square = "shortest_edge" not in edge
        edge = edge.get("shortest_edge", edge.get("height") if edge.get("height") == edge.get("width") else None)
    crop = crop["height"] if isinstance(crop, dict) and crop.get("height") == crop.get("width") else crop
    crop = crop if values.get("do_center_crop", crops) else edge
    mean, deviation = (np.array(values.get(f"image_{part}"), object) for part in ("mean", "std"))
    is_numbers = all(part.shape == (3,) and all(type(x) in (int, float) for x in part) for part in (mean, deviation))
    fits = {
        "image_processor_type": start is not None,
        "resample": values.setdefault("resample", resample) in KERNELS,
        "size": type(edge) is int and 8 <= edge <= 4096,
        "crop_size": type(crop) is int and type(edge) is int and 8 <= crop <= edge,
        "image_std": is_numbers and all(x > 0 for x in deviation),
        "rescale_factor": type(rescale) is float and 0 < rescale <= 1,
        **{name: values.get(name, usual) == usual for name, usual in STEPS.items()},
        **{
            name: not values[name]
            for name in values
            if name.startswith("do_") and name not in (*STEPS, "do_center_crop")
        },
    }
    for name in (name for name, is_fit in fits.items() if not is_fit):
        raise UserError(
            f"'{shown}/preprocessor_config.json' has {name} {values.get(name)!r}: expected the preprocessing of ViT, "
            f"DeiT, CLIP, SigLIP or DINOv2 for square inputs."
        )
    side = size or crop
    resize = Resize(KERNELS[values["resample"]], round(edge * side / crop), is_square)
    shift, divisor = (part.astype(np.float32) / rescale for part in (mean, deviation))
    return resize, int(side), shift, divisor
