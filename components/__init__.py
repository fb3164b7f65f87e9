"""Topgraft's components: a folder per stage or command, over shared folders; CONTRIBUTING.md lists them."""

import os

# Read when TensorFlow is first imported: it turns oneDNN on by itself only where there is AVX-512, yet on AVX2 the
# forward pass of EfficientNet-Lite0 is twice as fast with it; and workers of one run should compute alike.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
