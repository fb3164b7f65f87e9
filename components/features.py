"""The contract between stages: every feature key, artifact name and stage outcome stands here once."""

from __future__ import annotations

# A change of what stages write invalidates what earlier versions left.
VERSION = "0.5.0"

SPLITS = ("train", "val", "test")

# Engines that compute bottlenecks; a config may leave the choice to a trial.
TENSORFLOW, TENSORFLOW_BF16, OPENVINO, OPENVINO_BF16 = "tensorflow", "tensorflow_bf16", "openvino", "openvino_bf16"
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
SERVING_SIGNATURE = "serving_default"
BOTTLENECK_SIGNATURE = "bottleneck"

# What two images of one content are to each other: of one class and split, of two classes, of one class in two splits.
COPY, LABEL_CONFLICT, LEAK = "copy", "label_conflict", "leak"
