"""A run's configuration: one short YAML file, every key of it checked."""

from __future__ import annotations

import math
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Optional, Union, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from components.catalog import Spec, parse_backbone
from components.errors import UserError
from components.features import RunDir


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_number(value: Any) -> Any:
    # YAML 1.1 takes 1e-4 for text, as it has no point.
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Section):
    """Shares of the images in each split, which sum to 1, or an exact number of training images in each class."""

    train: float = Field(0.6, gt=0, lt=1)
    val: float = Field(0.2, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    train_per_class: Optional[int] = Field(None, ge=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Split:
        if not math.isclose(self.train + self.val + self.test, 1, abs_tol=1e-6):
            raise ValueError(f"the shares sum to {self.train + self.val + self.test:g}, expected 1")
        return self


class Data(Section):
    """Where the images are: a data set by name, or path, which goes before; how they are split, what is left out."""

    path: Union[str, tuple[str, ...], None] = None
    source: Optional[Literal["digits", "flowers", "caltech101", "caltech256", "hugs"]] = None
    exclude: tuple[str, ...] = ()
    labels: Optional[str] = None
    group_pattern: Optional[str] = None
    split: Split = Split()
    duplicates: Literal["drop", "keep", "fail"] = "drop"
    label_conflicts: Literal["warn", "fail"] = "warn"
    max_reject_share: float = Field(0.05, ge=0, le=1)
    max_bytes: int = Field(64 * 2**20, ge=1)
    max_pixels: int = Field(100_000_000, ge=1)

    @model_validator(mode="after")
    def _some_place(self) -> Data:
        if not self.path and self.source is None:
            raise ValueError("expected data.path (a folder with one sub-folder of images per class) or data.source")
        return self


class Validation(Section):
    """Limits of the data gate: how far splits may differ, and how far the data may from that of a former run."""

    split_skew: float = Field(0.1, gt=0, le=1)
    schema_path: Optional[Path] = Field(None, alias="schema")
    baseline: Optional[Path] = None
    drift: float = Field(0.1, gt=0, le=1)
    on_anomaly: Literal["stop", "warn"] = "stop"

    @property
    def baseline_statistics(self) -> Optional[Path]:
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
    """From which cosine on two bottlenecks are those of near-duplicates."""

    near_duplicate: float = Field(0.92, gt=0, le=1)


class HiddenLayer(Section):
    """A dense layer of the head; dropout is the share of its outputs dropped in training."""

    units: int = Field(ge=1)
    activation: Literal["relu", "tanh", "sigmoid", "elu", "selu", "gelu", "swish", "linear"] = "relu"
    dropout: float = Field(0, ge=0, lt=1)
    l2: float = Field(0, ge=0)


class Head(Section):
    """The head: hidden layers, a single sigmoid output or a soft-max, how bottlenecks are scaled before them."""

    hidden: tuple[HiddenLayer, ...] = ()
    output: Literal["auto", "softmax", "sigmoid"] = "auto"
    normalize: Literal["l2", "standardize", "none"] = "l2"

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if value == "linear":
            return {}
        if isinstance(value, list):
            return {"hidden": value}
        if not isinstance(value, (dict, Head)):
            raise ValueError("expected linear, a list of hidden layers such as [{units: 512}], or a section")
        return value


class Schedule(Section):
    """How the learning rate falls, by the step; warmup steps rise to it."""

    kind: Literal["constant", "exponential", "cosine"] = "cosine"
    warmup: int = Field(0, ge=0)
    decay: float = Field(0.9, gt=0, le=1)
    decay_steps: int = Field(500, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _decay_is_exponential(self) -> Schedule:
        unused = sorted({"decay", "decay_steps"} & self.model_fields_set)
        if unused and self.kind != "exponential":
            raise ValueError(f"{unused[0]} belongs to kind exponential, expected that kind or no {unused[0]}")
        return self


class Train(Section):
    """How the head is trained; by default for 300 steps, with bottlenecks in a quarter of the memory at most."""

    epochs: Optional[int] = Field(None, ge=1)
    steps: Optional[int] = Field(None, ge=1)
    batch_size: int = Field(256, ge=1)
    optimizer: Literal["sgd", "momentum", "adam", "adamw"] = "adam"
    momentum: float = Field(0.9, ge=0, lt=1)
    learning_rate: float = Field(0.003, gt=0)
    schedule: Schedule = Schedule()
    l2: Union[float, Literal["auto"]] = 0.001
    label_smoothing: float = Field(0, ge=0, lt=1)
    class_weight: Union[Literal["balanced"], dict[str, float], None] = None
    patience: Optional[int] = Field(None, ge=1)
    warm_start: Optional[Path] = None
    max_memory: Optional[int] = Field(None, ge=1)

    @field_validator("l2", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        number = _read_number(value)
        if value != "auto" and not (_is_number(number) and number >= 0):
            raise ValueError("expected a number of 0 or more, or auto")
        return number

    @field_validator("class_weight", mode="before")
    @classmethod
    def _weights_or_balanced(cls, value: Any) -> Any:
        if isinstance(value, dict):
            weights = {str(name): _read_number(weight) for name, weight in value.items()}
            if all(_is_number(weight) and weight >= 0 for weight in weights.values()):
                return weights
        elif value in (None, "balanced"):
            return value
        raise ValueError("expected balanced, or numbers of 0 or more by class such as {cat: 2, dog: 1}")

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if self.epochs and self.steps:
            raise ValueError(f"epochs is {self.epochs} and steps is {self.steps}, expected one of the two")
        return self


class Abstain(Section):
    """The precision that answers are to have, by a probability threshold chosen on the validation split."""

    precision: float = Field(gt=0, lt=1)


class Curve(Section):
    """The experiment of topgraft curve: backbones side by side, training images a class or shares of it, and draws."""

    backbones: tuple[tuple[Spec, ...], ...] = ()
    shots: tuple[str, ...] = ("15", "30")
    draws: int = Field(5, ge=1)
    small_classes: Literal["leave_out", "shrink", "fail"] = "leave_out"
    max_test_per_class: int = Field(50, ge=1)

    @field_validator("backbones", mode="before")
    @classmethod
    def _parse_backbones(cls, value: Any) -> tuple[tuple[Spec, ...], ...]:
        if not isinstance(value, (list, tuple)):
            raise ValueError("expected a list of backbones; one of several side by side is a list itself")
        return tuple(parse_backbone(part) for part in value)

    @field_validator("shots", mode="before")
    @classmethod
    def _read_shots(cls, value: Any) -> tuple[str, ...]:
        shots = [str(part).strip() for part in (value if isinstance(value, (list, tuple)) else str(value).split(","))]
        for text in shots:
            number = text[:-1] if text.endswith("%") else text
            if not number.isdecimal() or int(number) < 1 or (text.endswith("%") and int(number) > 99):
                raise ValueError(f"found '{text}', expected numbers of images such as 15,30 or shares such as 60%")
        return tuple(shots)


class Thresholds(Section):
    """What the test split must reach to be blessed: accuracy and top5 at least, loss at most."""

    accuracy: Optional[float] = Field(None, ge=0, le=1)
    top5: Optional[float] = Field(None, ge=0, le=1)
    loss: Optional[float] = Field(None, ge=0)


class Evaluate(Section):
    """The model gate."""

    thresholds: Thresholds = Thresholds()
    max_accuracy_drop: Optional[float] = Field(None, ge=0, le=1)


class BeamSettings(Section):
    """Where Beam runs, and into how many shards the data is cut."""

    runner: str = "DirectRunner"
    shards: Optional[int] = Field(None, ge=1, le=99999)


class Config(Section):
    """All that decides a run."""

    name: str = Field(min_length=1)
    output_dir: str = ""
    data: Data
    backbone: tuple[Spec, ...] = (Spec(name="efficientnet_lite0"),)
    head: Head = Head()
    validation: Validation = Validation()
    extract: Extract = Extract()
    augment: Augment = Augment()
    audit: Audit = Audit()
    train: Train = Train()
    abstain: Optional[Abstain] = None
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

    @property
    def run_folder(self) -> Path:
        """The run directory: output_dir, else runs/<name>."""
        return Path(self.output_dir or f"runs/{self.name}")


def load_config(path: Path, overrides: list[str]) -> Config:
    """Read a YAML file and key=value overrides with dotted keys; raises UserError for the first thing wrong."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read the config '{path}' ({error.strerror}): give the path of a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = str(error).replace("\n", " ")
        raise UserError(f"The config '{path}' is not valid YAML ({place}): mend it there.") from error
    if not isinstance(values, dict):
        raise UserError(
            f"The config '{path}' holds no keys: expected at least 'name' and 'data', see configs/digits.yaml."
        )
    for override in overrides:
        _apply_override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{_describe(error)} (config '{path}').") from error


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"Cannot read '{override}': expected key=value, such as train.epochs=20.")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"Cannot set '{key}': '{parent}' is a single value, not a section.")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"Cannot read the value of '{override}': expected a YAML value, such as {key}=20.") from error


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _keys_of(Config, path[:-1])
        nearest = get_close_matches(path[-1], known, 1, 0)
        meant = ".".join([*path[:-1], *nearest])
        return f"Unknown key '{key}'; did you mean '{meant}'? Known there are {', '.join(known)}"
    if first["type"] == "missing":
        return f"The key '{key}' is missing: set it"
    message = first["msg"].removeprefix("Value error, ")
    found = "" if isinstance(first["input"], dict) else f" is {first['input']!r}"
    return f"'{key}'{found}: {message[0].lower()}{message[1:]}" if key else message


def _keys_of(section: type[BaseModel], path: list[str]) -> list[str]:
    fields = {field.alias or name: field.annotation for name, field in section.model_fields.items()}
    if not path:
        return list(fields)
    # The section itself, or what is in Optional[...] or tuple[..., ...], of which a path names the position too.
    kinds = get_args(fields[path[0]]) or (fields[path[0]],)
    (inner,) = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return _keys_of(inner, path[2:] if path[1:] and path[1].isdecimal() else path[1:])
