"""What each component gets of the config."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module as load
from typing import TYPE_CHECKING

from components.data.image_file import Listing
from components.data.listing import list_images
from components.features import SPLITS
from components.ingest.split import SplitPlan
from components.run_dir import RunDir
from components.terminal.progress import Progress
from pipeline.config import Config, Extract
from pipeline.output_dir import check_apart, exclude_runs
from pipeline.stages import VERSION
from pipeline.training_config import Curve, Finetune, Head, Train

if TYPE_CHECKING:
    from components.backbones.views import Augment
    from components.curve.curve import CurvePlan
    from components.extract.engine_choice import Closeness
    from components.finetune.finetune import Tuning
    from components.ingest.ingest import IngestRules
    from components.report.model_card import Origin
    from components.train.model import Architecture
    from components.train.train import Recipe


def list_data(config: Config, progress: Progress) -> Listing:
    """Return the list of all images, without what runs wrote below them; raises UserError for data that is of no use,
    and where an image lies in the run directory.
    """
    data = config.data
    listing = list_images(
        data_place(config, progress), data.exclude, data.labels, data.group_pattern, data.layout, exclude_runs(config)
    )
    check_apart(listing, RunDir(config.run_folder))
    return listing


def data_place(config: Config, progress: Progress) -> str | Sequence[str]:
    """Return where the images are: the user's place or places, or those of a named data set, fetched on first use."""
    if config.data.path:
        return config.data.path
    with progress.stage("data"):
        return str(load("components.data.published").locate_dataset(config.data.source, progress))


def make_rules(config: Config) -> IngestRules:
    """Return what ingest does with the files."""
    data = config.data
    plan = SplitPlan(data.split.model_dump(include=set(SPLITS)), data.split.train_per_class, config.seed)
    limits = load("components.images.check").Limits(data.max_bytes, data.max_pixels)
    return load("components.ingest.ingest").IngestRules(
        plan, limits, data.duplicates, data.label_conflicts, data.max_reject_share
    )


def make_closeness(extract: Extract) -> Closeness:
    """Return how close a faster engine must stay to TensorFlow in float32."""
    return load("components.extract.engine_choice").Closeness(extract.median_cosine, extract.first_percentile_cosine)


def make_augment(config: Config) -> Augment:
    """Return which views of each image are extracted, and whether the model answers with their mean."""
    return load("components.backbones.views").Augment(**config.augment.model_dump())


def make_architecture(head: Head) -> Architecture:
    """Return what the head is to be."""
    hidden = [load("components.train.model").HiddenLayer(**layer.model_dump()) for layer in head.hidden]
    return load("components.train.model").Architecture(hidden, head.output, head.normalize)


def make_recipe(train: Train) -> Recipe:
    """Return how the head is to be trained."""
    schedule = load("components.train.optimization").Schedule(**train.schedule.model_dump())
    return load("components.train.train").Recipe(**{**train.model_dump(exclude={"finetune"}), "schedule": schedule})


def make_tuning(finetune: Finetune) -> Tuning:
    """Return how the backbone is to be fine-tuned."""
    values = finetune.model_dump()
    distortion = load("components.finetune.inputs").Distortion(
        *(values.pop(name) for name in ("flip", "crop", "colour"))
    )
    return load("components.finetune.finetune").Tuning(**values, distortion=distortion)


def make_origin(config: Config) -> Origin:
    """Return what a model's card says of the config."""
    data = config.data
    path = data.source or "" if not data.path else data.path
    training = {"head": config.head, "train": config.train, "augment": config.augment}
    return load("components.report.model_card").Origin(
        config.name,
        VERSION,
        [path] if isinstance(path, str) else path,
        config.backbone,
        {"seed": config.seed, **{key: section.model_dump(mode="json") for key, section in training.items()}},
        config.evaluate.thresholds.model_dump(exclude_none=True),
    )


def make_curve_plan(curve: Curve) -> CurvePlan:
    """Return which trainings a curve is made of."""
    return load("components.curve.curve").CurvePlan(
        curve.shots, curve.draws, curve.small_classes, curve.max_test_per_class
    )
