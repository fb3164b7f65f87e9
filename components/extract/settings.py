"""Settings of extract: the engine that computes bottlenecks."""

from __future__ import annotations

from typing import Literal

from components.settings import FractionAboveZero, settings


@settings
class EngineChoice:
    """The engine that computes bottlenecks; auto chooses the fastest for the processor.

    Another engine than TensorFlow must reach both cosines with TensorFlow's bottlenecks over a sample of the images.
    With openvino_int8 the engine that auto chooses computes the test split.
    """

    engine: Literal["auto", "tensorflow", "openvino", "openvino_bf16", "openvino_int8"] = "auto"
    median_cosine: FractionAboveZero = 0.999
    first_percentile_cosine: FractionAboveZero = 0.995
