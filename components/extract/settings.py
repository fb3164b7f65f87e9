"""Settings of extract: the engine that computes bottlenecks."""

from __future__ import annotations

from typing import Literal

from components.settings import FractionAboveZero, settings


@settings
class EngineChoice:
    """Which engine computes bottlenecks; auto tries them on the user's own images.

    The cosines are those over a sample with TensorFlow's bottlenecks in float32 that a faster engine must reach.
    """

    engine: Literal["tensorflow", "tensorflow_bf16", "openvino", "openvino_bf16", "auto"] = "tensorflow"
    median_cosine: FractionAboveZero = 0.999
    first_percentile_cosine: FractionAboveZero = 0.995
