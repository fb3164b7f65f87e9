"""The contract between stages: splits, engines, feature keys, tensors and signatures, each defined once."""

from __future__ import annotations

# A new version invalidates the results that stages of earlier versions wrote.
VERSION = "0.6.0"

SPLITS = ("train", "val", "test")
# In columns a split is its position here.
SPLIT_CODES = ("", *SPLITS)

# Engines that compute bottlenecks.
TENSORFLOW, OPENVINO, OPENVINO_BF16 = "tensorflow", "openvino", "openvino_bf16"
OPENVINO_INT8 = "openvino_int8"
# The value of a config key that leaves the choice to the program.
AUTO = "auto"

# Keys of the image record and of the bottleneck record (both are tf.Example).
KEY = "image/key"
ENCODED = "image/encoded"
FORMAT = "image/format"
SHA256 = "image/sha256"
HEIGHT = "image/height"
WIDTH = "image/width"
LABEL = "image/class/label"
TEXT = "image/class/text"
SOURCE = "image/source"
BOTTLENECK = "bottleneck"
BOTTLENECK_VIEWS = "bottleneck/views"

# Tensors of a canonical backbone, and the signatures of an export.
IMAGE_BYTES = "image_bytes"
PIXELS = "pixels"
VIEWS = "views"
INDEX = "index"
LABEL_NAME = "label"
PROBABILITIES = "probabilities"
ABSTAINED = "abstained"
CLASS = "class"
EVIDENCE = "evidence"
SERVING_SIGNATURE = "serving_default"
BOTTLENECK_SIGNATURE = "bottleneck"
EXPLAIN_SIGNATURE = "explain"

# Relations of two images with the same content: same class and split, two classes, same class in two splits.
COPY, LABEL_CONFLICT, LEAK = "copy", "label_conflict", "leak"
