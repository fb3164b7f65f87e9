"""The tensors of a folder of published weights in the format safetensors, read one by one."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  gives numpy the bfloat16 that safetensors looks for
import numpy as np
from safetensors import SafetensorError, safe_open

from components.errors import UserError

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
TYPES = ("F32", "F16", "BF16")
MAX_BYTES = 2**31 - 2**24  # a frozen graph is one message of protobuf, which holds 2 GiB
# The other parts of a published model: text tower, classifiers, decoder, tokens of masks, features of other layers.
LEFT_OUT = re.compile(
    r"(text_model|(text|visual)_projection|logit_(scale|bias)|(\w+_)?classifier|decoder)\b.*|"
    r"(\w+\.)?(embeddings\.(mask_token|position_ids)|(pooler|head)\..*)"
)


class Weights:
    """The tensors of a local folder; shown is the folder as the user knows it, names are those of all tensors.

    Raises UserError for a file that safetensors cannot read.
    """

    def __init__(self, folder: Path, shown: str):
        self._shown, self._taken = shown, dict[str, int]()
        self._files: dict[str, Any] = {}
        for file in _list_files(folder, shown):
            try:
                content = safe_open(folder / file, "numpy")
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
        if found != wanted:
            raise UserError(f"{subject} has shape {found}: expected {wanted} by its config.json.")
        if kind not in TYPES:
            raise UserError(f"{subject} has type {kind}: expected {', '.join(TYPES)}.")
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


def read_object(folder: Path, name: str, shown: str) -> dict[str, Any]:
    """Return the JSON object in a file of a folder; raises UserError for anything else."""
    try:
        value = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise UserError(f"'{shown}' has no {name}: expected a folder of published weights.") from None
    except (ValueError, RecursionError, OSError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"'{shown}/{name}' is not a JSON object: get the file again.")
    return value


def _list_files(folder: Path, shown: str) -> list[str]:
    if (folder / FILE).exists():
        return [FILE]
    files = read_object(folder, INDEX, shown).get("weight_map")
    if not isinstance(files, dict) or not all(re.fullmatch(r"[\w.-]+", str(file)) for file in files.values()):
        raise UserError(f"'{shown}/{INDEX}' has no weight_map from tensors to files: get the file again.")
    return sorted({str(file) for file in files.values()})
