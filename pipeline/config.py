"""The configuration of a run: the data and the settings of all stages in one record."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from components.audit.settings import AuditLimits
from components.backbones.settings import Augment
from components.backbones.spec import Spec, parse_backbone
from components.curve.settings import CurvePlan
from components.evaluate.settings import ModelGate
from components.export.settings import Abstain
from components.extract.settings import EngineChoice
from components.finetune.settings import TunedRecipe
from components.ingest.settings import IngestRules
from components.settings import PlaceText, settings
from components.storage.places import PATTERN, as_path, expand_home, is_remote
from components.train.settings import Architecture, Recipe
from components.validate.settings import Gate
from pipeline.presets import apply_preset

# Names of Beam's options for credentials, such as s3_secret_access_key and azure_connection_string.
SECRET = re.compile("access_key|connection_string|password|secret|session_token")

T = TypeVar("T")


def _expand_path(path: Any) -> Any:
    return tuple(map(expand_home, path)) if isinstance(path, tuple) else path and expand_home(path)


def _parse_backbones(value: Any) -> tuple[tuple[Spec, ...], ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("expected a list of backbones, where a combination is itself a list")
    return tuple(parse_backbone(part) for part in value)


def _only(kind: type[T], value: T) -> T:
    """Return the fields of settings that a base class has, as that class."""
    return kind(**{field.name: getattr(value, field.name) for field in fields(kind)})  # type: ignore[arg-type]


@settings
class Data(IngestRules):
    """The images, from path or else from the data set named source, and their split and exclusions.

    layout tells whether the top folders of a path are classes or splits, where their names are ambiguous.
    """

    path: Annotated[str | tuple[str, ...] | None, AfterValidator(_expand_path)] = None
    source: Literal["digits", "flowers", "caltech101", "caltech256", "hugs"] | None = None
    layout: Literal["auto", "classes", "splits"] = "auto"
    exclude: tuple[str, ...] = ()
    labels: PlaceText | None = None
    group_pattern: str | None = None

    def __post_init__(self) -> None:
        if not self.path and self.source is None:
            raise ValueError("expected data.path (a folder with one sub-folder of images per class) or data.source")

    @property
    def roots(self) -> tuple[str, ...]:
        """The paths of the user's images, () for a data set by name."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()

    @property
    def rules(self) -> IngestRules:
        """The settings of ingest, without the location of the images."""
        return _only(IngestRules, self)


@settings
class CurveSettings(CurvePlan):
    """The trainings of topgraft curve, and the backbones that it compares."""

    backbones: Annotated[tuple[tuple[Spec, ...], ...], BeforeValidator(_parse_backbones)] = ()

    @property
    def plan(self) -> CurvePlan:
        """The trainings of each backbone."""
        return _only(CurvePlan, self)


class BeamSettings(BaseModel):
    """Beam's runner, the number of shards of the data, and any other option of Beam by its name."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    runner: str = "DirectRunner"
    shards: int | None = Field(None, ge=1, le=99999)

    @model_validator(mode="before")
    @classmethod
    def _expand_homes(cls, value: Any) -> Any:
        # Only Beam knows which of its options are paths.
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


class Config(BaseModel):
    """The configuration of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1)
    output_dir: PlaceText = ""
    preset: Literal["fast", "balanced", "best"] = "balanced"
    data: Data
    backbone: tuple[Spec, ...] = (Spec(name="efficientnet_lite0"),)
    head: Architecture = Architecture()
    validation: Gate = Gate()
    extract: EngineChoice = EngineChoice()
    augment: Augment = Augment()
    audit: AuditLimits = AuditLimits()
    train: TunedRecipe = TunedRecipe()
    abstain: Abstain | None = None
    curve: CurveSettings = CurveSettings()
    evaluate: ModelGate = ModelGate()
    beam: BeamSettings = BeamSettings()
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        return apply_preset(values) if isinstance(values, dict) else values

    @field_validator("backbone", mode="before")
    @classmethod
    def _parse_backbone(cls, value: Any) -> tuple[Spec, ...]:
        return parse_backbone(value)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if "/" in name or name.startswith("."):
            raise ValueError("expected a valid folder name")
        return name

    @model_validator(mode="after")
    def _auto_is_for_linear_heads(self) -> Config:
        if self.train.l2 == "auto" and self.head.hidden:
            raise ValueError("'train.l2' is auto, which suits a linear head only: set it to a number, such as 0.001")
        return self

    @model_validator(mode="after")
    def _no_pattern(self) -> Config:
        folder, local = self.run_folder, self.beam.runner.lower().removesuffix("runner") in ("direct", "fnapi")
        if (is_remote(folder) or not local) and PATTERN.search(str(folder)):  # places.plain_folder handles the others
            raise ValueError(
                f"'output_dir' is '{folder}', but TensorFlow and Beam read '*', '?', '[' and backslashes as a pattern: "
                f"set it to a path without them"
            )
        return self

    @model_validator(mode="after")
    def _tunable(self) -> Config:
        if self.train.finetune and (len(self.backbone) > 1 or self.backbone[0].bottlenecks):
            found = "ready-made bottlenecks" if self.backbone[0].bottlenecks else "several backbones side by side"
            raise ValueError(
                f"backbone has {found}, but train.finetune needs one backbone with a network: set only that"
            )
        return self

    @property
    def run_folder(self) -> Path:
        """The run directory: output_dir, else runs/<name>."""
        return as_path(self.output_dir or f"runs/{self.name}")

    @property
    def recipe(self) -> Recipe:
        """The settings of train, without those of finetune."""
        return _only(Recipe, self.tuned_recipe)

    @property
    def tuned_recipe(self) -> TunedRecipe:
        """The section train, with the run's seed as default."""
        return replace(self.train, seed=self.seed if self.train.seed is None else self.train.seed)

    def describe(self) -> dict[str, Any]:
        """Return all keys for run.json and the report, with Beam's credentials hidden."""
        described = self.model_dump(mode="json", by_alias=True)
        hidden = {name: "(hidden)" for name in self.beam.options if SECRET.search(name)}
        return {**described, "beam": {**described["beam"], **hidden}}

    def describe_model(self) -> dict[str, Any]:
        """Return the keys that describe the model: all but output_dir and beam."""
        return {key: value for key, value in self.describe().items() if key not in ("output_dir", "beam")}
