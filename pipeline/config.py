"""A run's configuration: one short YAML file, every key of it checked."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from components.backbones.spec import Spec, parse_backbone
from components.run_dir import RunDir
from components.storage.places import PATTERN, as_path, expand_home, is_remote
from pipeline.section import Place, PlaceText, Section
from pipeline.training_config import Abstain, Curve, Head, Train

# As Beam's options for credentials are named: s3_secret_access_key, azure_connection_string.
SECRET = re.compile("access_key|connection_string|password|secret|session_token")


class Split(Section):
    """Shares of the images in each split, which sum to 1, or an exact number of training images in each class."""

    train: float = Field(0.6, gt=0, lt=1)
    val: float = Field(0.2, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    train_per_class: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Split:
        if not math.isclose(self.train + self.val + self.test, 1, abs_tol=1e-6):
            raise ValueError(f"the shares sum to {self.train + self.val + self.test:g}, expected 1")
        return self


class Data(Section):
    """Where the images are: a data set by name, or path, which goes before; how they are split, what is left out.

    layout says what the folders at the top of a path are, where their names leave that in doubt.
    """

    path: str | tuple[str, ...] | None = None
    source: Literal["digits", "flowers", "caltech101", "caltech256", "hugs"] | None = None
    layout: Literal["auto", "classes", "splits"] = "auto"
    exclude: tuple[str, ...] = ()
    labels: PlaceText | None = None
    group_pattern: str | None = None
    split: Split = Split()
    duplicates: Literal["drop", "keep", "fail"] = "drop"
    label_conflicts: Literal["warn", "fail"] = "warn"
    max_reject_share: float = Field(0.05, ge=0, le=1)
    max_bytes: int = Field(64 * 2**20, ge=1)
    max_pixels: int = Field(100_000_000, ge=1)

    @property
    def roots(self) -> tuple[str, ...]:
        """The user's places of images, of which a data set by name has none."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()

    @field_validator("path")
    @classmethod
    def _expand_path(cls, path: Any) -> Any:
        return tuple(map(expand_home, path)) if isinstance(path, tuple) else path and expand_home(path)

    @model_validator(mode="after")
    def _some_place(self) -> Data:
        if not self.path and self.source is None:
            raise ValueError("expected data.path (a folder with one sub-folder of images per class) or data.source")
        return self


class Validation(Section):
    """Limits of the data gate: how far splits may differ, and how far the data may from that of a former run."""

    split_skew: float = Field(0.1, gt=0, le=1)
    schema_path: Place | None = Field(None, alias="schema")
    baseline: Place | None = None
    drift: float = Field(0.1, gt=0, le=1)
    on_anomaly: Literal["stop", "warn"] = "stop"

    @property
    def baseline_statistics(self) -> Path | None:
        """The statistics that the former run left, in its run directory."""
        return self.baseline and RunDir(self.baseline).validation


class Extract(Section):
    """Which engine computes bottlenecks; auto tries them, and holds them to cosines with TensorFlow's in float32."""

    engine: Literal["tensorflow", "tensorflow_bf16", "openvino", "openvino_bf16", "auto"] = "tensorflow"
    median_cosine: float = Field(0.999, gt=0, le=1)
    first_percentile_cosine: float = Field(0.995, gt=0, le=1)


class Augment(Section):
    """Views of each image beside the whole: mirrored, and crops of crop_side of its sides; average answers by all."""

    flip: bool = False
    crops: int = Field(0, ge=0, le=5)
    crop_side: float = Field(0.8, gt=0, lt=1)
    average: bool = False


class Audit(Section):
    """From which cosine on two bottlenecks are those of near-duplicates; a sample of max_images stands for more."""

    near_duplicate: float = Field(0.92, gt=0, le=1)
    max_images: int = Field(100_000, ge=1000)


class Thresholds(Section):
    """What the test split must reach to be blessed: loss at most, all else at least.

    The recalls are those of the classes that have a test image: their mean, and the least of them.
    """

    accuracy: float | None = Field(None, ge=0, le=1)
    top5: float | None = Field(None, ge=0, le=1)
    loss: float | None = Field(None, ge=0)
    mean_class_accuracy: float | None = Field(None, ge=0, le=1)
    min_class_recall: float | None = Field(None, ge=0, le=1)


class Evaluate(Section):
    """The model gate; without any limit there is none."""

    thresholds: Thresholds = Thresholds()
    max_accuracy_drop: float | None = Field(None, ge=0, le=1)


class BeamSettings(Section):
    """Where Beam runs, into how many shards the data is cut, and any other option of Beam by its name."""

    model_config = ConfigDict(extra="allow")

    runner: str = "DirectRunner"
    shards: int | None = Field(None, ge=1, le=99999)

    @model_validator(mode="before")
    @classmethod
    def _expand_homes(cls, value: Any) -> Any:
        # Beam's options that are paths are known to Beam alone.
        if not isinstance(value, dict):
            return value
        return {
            key: expand_home(text) if isinstance(text, str) and text.startswith("~/") else text
            for key, text in value.items()
        }

    @property
    def options(self) -> dict[str, Any]:
        """Beam's own options."""
        return self.model_extra or {}


class Config(Section):
    """All that decides a run."""

    name: str = Field(min_length=1)
    output_dir: PlaceText = ""
    data: Data
    backbone: tuple[Spec, ...] = (Spec(name="efficientnet_lite0"),)
    head: Head = Head()
    validation: Validation = Validation()
    extract: Extract = Extract()
    augment: Augment = Augment()
    audit: Audit = Audit()
    train: Train = Train()
    abstain: Abstain | None = None
    curve: Curve = Curve()
    evaluate: Evaluate = Evaluate()
    beam: BeamSettings = BeamSettings()
    seed: int = Field(0, ge=0)

    @field_validator("backbone", mode="before")
    @classmethod
    def _parse_backbone(cls, value: Any) -> tuple[Spec, ...]:
        return parse_backbone(value)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if "/" in name or name.startswith("."):
            raise ValueError("expected a name that can be a folder's")
        return name

    @model_validator(mode="after")
    def _auto_is_for_linear_heads(self) -> Config:
        if self.train.l2 == "auto" and self.head.hidden:
            raise ValueError("'train.l2' is auto, which suits a linear head only: set it to a number, such as 0.001")
        return self

    @model_validator(mode="after")
    def _no_pattern(self) -> Config:
        folder, local = self.run_folder, self.beam.runner.lower().removesuffix("runner") in ("direct", "fnapi")
        if (is_remote(folder) or not local) and PATTERN.search(str(folder)):  # else places.plain_folder helps
            raise ValueError(
                f"'output_dir' is '{folder}', where TensorFlow and Beam take '*', '?', '[' and backslashes for a "
                f"pattern: set it to a path without them"
            )
        return self

    @model_validator(mode="after")
    def _tunable(self) -> Config:
        if self.train.finetune and (len(self.backbone) > 1 or self.backbone[0].bottlenecks):
            found = "ready-made bottlenecks" if self.backbone[0].bottlenecks else "several backbones side by side"
            raise ValueError(f"backbone names {found}, but train.finetune takes the network of one: name that")
        return self

    @property
    def run_folder(self) -> Path:
        """The run directory: output_dir, else runs/<name>."""
        return as_path(self.output_dir or f"runs/{self.name}")

    def describe(self) -> dict[str, Any]:
        """Return all keys for run.json and the report, which others read: without Beam's keys to stores."""
        described = self.model_dump(mode="json", by_alias=True)
        hidden = {name: "(hidden)" for name in self.beam.options if SECRET.search(name)}
        return {**described, "beam": {**described["beam"], **hidden}}
