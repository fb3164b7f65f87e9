"""Settings of extract: the engine that computes bottlenecks."""

from __future__ import annotations

from typing import Literal

from components.settings import FractionAboveZero, settings


@settings
class EngineChoice:
    """The engine that computes bottlenecks; auto chooses the fastest on the user's own images.

    A faster engine must reach both cosines with TensorFlow's float32 bottlenecks over a sample.
    """

    engine: Literal["tensorflow", "tensorflow_bf16", "openvino", "openvino_bf16", "auto"] = "tensorflow"
    median_cosine: FractionAboveZero = 0.999
    first_percentile_cosine: FractionAboveZero = 0.995
