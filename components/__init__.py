"""Topgraft's components, one role a file; they load on first use (PEP 562), so an idle run needs no TensorFlow."""

import os
from importlib import import_module
from types import ModuleType

# Read when TensorFlow is first imported: it turns oneDNN on by itself only where there is AVX-512, yet on AVX2 the
# forward pass of EfficientNet-Lite0 is twice as fast with it; and workers of one run should compute alike.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_"):
        raise AttributeError(name)
    return import_module(f"{__name__}.{name}")
