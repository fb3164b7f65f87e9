"""A folder of published weights of a vision transformer: config.json, preprocessor_config.json and safetensors."""

from __future__ import annotations

import json
import re
from collections import Counter, namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  gives numpy the bfloat16 that safetensors looks for
import numpy as np
from safetensors import SafetensorError, safe_open

from components.backbones.network import Resize
from components.backbones.spec import BOTH, CLASS, POOLED
from components.errors import UserError

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
TYPES = ("F32", "F16", "BF16")
MAX_BYTES = 2**31 - 2**24  # a frozen graph is one message of protobuf, which holds 2 GiB
# Other parts of a published model: text tower, classifiers, decoder, tokens of masks, features of other layers.
LEFT_OUT = re.compile(
    r"(text_model|(text|visual)_projection|logit_(scale|bias)|(\w+_)?classifier|decoder)\b.*|"
    r"(\w+\.)?(embeddings\.(mask_token|position_ids)|(pooler|head)\..*)"
)
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


# The column of NAMES, the layer under the linear head of the publication, the start of the tensors of POOLED, that of
# all tensors in some files, the processor, and defaults of config.json.
Family = namedtuple("Family", "column layer pool prefix processor patch_size hidden_act layer_norm_eps")
FAMILIES = {
    # Dosovitskiy et al. 2021 (arXiv:2010.11929), 3.1: the head takes the class token.
    "vit": Family(1, CLASS, "pooler.dense.", "vit.", "ViT", 16, "gelu", 1e-12),
    # Touvron et al. 2021 (arXiv:2012.12877), 4: the distillation token is for the labels of a teacher.
    "deit": Family(1, CLASS, "pooler.dense.", "deit.", "DeiT", 16, "gelu", 1e-12),
    # Radford et al. 2021 (arXiv:2103.00020), A.3: linear heads take the features before the projection.
    "clip": Family(3, CLASS, "visual_projection.", "vision_model.", "CLIP", 32, "quick_gelu", 1e-5),
    # Zhai et al. 2023 (arXiv:2303.15343): no class token; attention pools the features of an image.
    "siglip": Family(3, POOLED, "head.", "vision_model.", "Siglip", 16, "gelu_pytorch_tanh", 1e-6),
    # Oquab et al. 2023 (arXiv:2304.07193): linear heads take the class token and the mean of the patch tokens.
    "dinov2": Family(2, BOTH, "", "dinov2.", "Bit", 14, "gelu", 1e-6),
    # Darcet et al. 2023 (arXiv:2309.16588) evaluate as DINOv2.
    "dinov2_with_registers": Family(2, BOTH, "", "dinov2_with_registers.", "Bit", 16, "gelu", 1e-6),
}
SIZES = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SIZES |= {"image_size": 224, "patch_size": 16, "num_channels": 3, "num_register_tokens": 4}
USUAL = {"qkv_bias": True, "pooler_act": "tanh", "use_swiglu_ffn": False}
ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "quick_gelu")
# Processors by the start of their names: resample, whether a size is of both sides, whether they crop, by default.
PROCESSORS = {"ViT": (2, True, False), "DeiT": (3, True, True), "Siglip": (3, False, False)}
PROCESSORS |= dict.fromkeys(("CLIP", "Bit"), (3, False, True))
KERNELS = {1: "lanczos3", 2: "triangle", 3: "keyscubic"}  # by the numbers of Pillow
STEPS = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")


class Weights:
    """The tensors of a local folder, which messages call shown; raises UserError if safetensors cannot read it."""

    def __init__(self, folder: Path, shown: str):
        self._shown, self._taken, self._files = shown, dict[str, int](), dict[str, Any]()
        files = [FILE]
        if not (folder / FILE).exists() and (folder / INDEX).exists():
            places = _read(folder, INDEX, shown).get("weight_map")
            files = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
        for file in files:
            try:
                content = safe_open(folder / Path(file).name, "numpy")
                self._files |= dict.fromkeys(content.keys(), content)
            except (SafetensorError, OSError, ValueError) as error:
                reason = str(error).partition("\n")[0].rstrip(".")
                raise UserError(f"Cannot read '{shown}/{file}' ({reason}): get the file again.") from error
        self.names = self._files.keys()

    def take(self, name: str, *shape: int | None) -> np.ndarray:
        """Return a tensor as float32 of a shape, where None is any length; raises UserError if it has another."""
        if name not in self.names:
            raise UserError(f"'{self._shown}' has no tensor '{name}': expected all weights of its config.json.")
        part, subject = self._files[name].get_slice(name), f"The tensor '{name}' of '{self._shown}'"
        found, kind = part.get_shape(), part.get_dtype()
        wanted = [size if want is None else want for want, size in zip(shape, [*found, *shape], strict=False)]
        if found != wanted or kind not in TYPES:
            raise UserError(f"{subject} is {kind} {found}: expected {', '.join(TYPES)} {wanted} by its config.json.")
        value: np.ndarray = self._files[name].get_tensor(name).astype(np.float32)
        if not np.isfinite(value).all():
            raise UserError(f"{subject} has values that are not finite: get the file again.")
        self._taken[name] = value.nbytes
        if sum(self._taken.values()) > MAX_BYTES:
            raise UserError(f"'{self._shown}' needs more than 2 GiB, the limit of a frozen graph: use a smaller model.")
        return value

    def describe_rest(self) -> str:
        """Return which tensors were not taken; raises UserError for one that must belong to the network."""
        rest = sorted(self.names - self._taken.keys())
        for name in rest:
            if not LEFT_OUT.fullmatch(name):
                raise UserError(
                    f"'{self._shown}' has the tensor '{name}', which the network of its config.json does not have: "
                    f"expected both files of one model."
                )
        parts = Counter(re.sub(r"^text_model\..*", "text_model.*", name) for name in rest)
        return ", ".join(name if count == 1 else f"{name} ({count})" for name, count in parts.items())


def _number(value: Any) -> float:
    return value if type(value) in (int, float) else float("nan")


def _read(folder: Path, name: str, shown: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_bytes())
    except (ValueError, RecursionError, OSError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"'{shown}' has no {name} with a JSON object: expected a whole folder of published weights.")
    return value


def _check(fits: Mapping[str, bool], values: Mapping[str, Any], file: str) -> None:
    for name in (name for name, is_fit in fits.items() if not is_fit):
        raise UserError(f"'{file}' has {name} {values.get(name)!r:.200}, which is not supported: use another model.")


def read_config(folder: Path, shown: str) -> dict[str, Any]:
    """Return the values of a config.json with the defaults of its family, and model_type as the name of the family.

    Raises UserError for another family, and for values that its networks cannot have.
    """
    config = _read(folder, "config.json", shown)
    kind = str(config.get("model_type")).removesuffix("_vision_model")
    if kind not in FAMILIES:
        raise UserError(f"'{shown}' has the model_type '{kind[:100]}': expected one of {', '.join(FAMILIES)}.")
    values = {**SIZES, **USUAL, **FAMILIES[kind]._asdict(), **config}
    for part in ("vision_config", "vision_config_dict"):  # of a model with a text tower
        values |= config[part] if isinstance(config.get(part), dict) else {}
    if kind.startswith("dinov2"):
        hidden = _number(values["hidden_size"]) * _number(values.get("mlp_ratio", 4))
        values["intermediate_size"] = int(hidden) if hidden < 2**20 else hidden
    fits = {name: type(values[name]) is int and 0 < values[name] < 2**20 for name in SIZES}
    if all(fits.values()):
        fits["num_attention_heads"] = values["hidden_size"] % values["num_attention_heads"] == 0
        fits["patch_size"] = values["patch_size"] <= values["image_size"]
        fits["num_channels"] = values["num_channels"] == 3
    fits["hidden_act"] = values["hidden_act"] in ACTIVATIONS
    fits["layer_norm_eps"] = 0 < _number(values["layer_norm_eps"]) < 1
    _check(fits | {name: values[name] == usual for name, usual in USUAL.items()}, values, f"{shown}/config.json")
    return {**values, "model_type": kind}


def read_preprocessing(folder: Path, shown: str, kind: str, size: int | None) -> dict[str, Any]:
    """Return resize, size, shift and divisor of a Network as preprocessor_config.json has them.

    A size in place of the published one scales the resize too. Raises UserError for a step that is not known here.
    """
    values = _read(folder, "preprocessor_config.json", shown)
    name = values.get("image_processor_type") or values.get("feature_extractor_type") or FAMILIES[kind].processor
    start = re.match("|".join(PROCESSORS), str(name))
    resample, is_square, crops = PROCESSORS[start[0] if start else "ViT"]
    edge: Any = values.get("size")
    crop: Any = values.get("crop_size") if values.get("do_center_crop", crops) else None
    if isinstance(edge, dict):
        is_square = edge.keys() != {"shortest_edge"}
        edge = (edge.get("height") == edge.get("width") and edge.get("height")) if is_square else edge["shortest_edge"]
    if isinstance(crop, dict):
        crop = crop.get("height") if crop.get("height") == crop.get("width") else -1
    values, crop = {"resample": resample, "rescale_factor": 1 / 255, **values}, edge if crop is None else crop
    fits = {name: not values[name] for name in values if name.startswith("do_") and name != "do_center_crop"}
    fits |= {name: values.get(name, True) is True for name in STEPS}
    fits |= {"image_processor_type": start is not None, "resample": values["resample"] in [*KERNELS]}
    fits["size"] = type(edge) is int and 8 <= edge <= 4096
    fits["crop_size"] = fits["size"] and type(crop) is int and crop in range(8, edge + 1)
    for part, low in (("image_mean", -1), ("image_std", 0)):
        numbers = values[part] if isinstance(values.get(part), list) else []
        fits[part] = len(numbers) == 3 and all(low < _number(number) < 2 for number in numbers)
    fits["rescale_factor"] = 0 < _number(values["rescale_factor"]) <= 1
    _check(fits, values, f"{shown}/preprocessor_config.json")
    shift, divisor = (np.float32(values[part]) / values["rescale_factor"] for part in ("image_mean", "image_std"))
    side = size or crop
    resize = Resize(KERNELS[values["resample"]], round(edge * side / crop), is_square)
    return {"resize": resize, "size": side, "shift": shift, "divisor": divisor}
