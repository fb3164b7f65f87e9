"""The story: images to a blessed, servable classifier and a report, one statement a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import components  # its submodules load on first use: a run with nothing to do imports no TensorFlow
from components.catalog import source_files
from components.features import (
    SPLITS,
    Audit,
    Bottlenecks,
    Evaluation,
    Examples,
    Export,
    Head,
    Report,
    RunDir,
    Validation,
)
from components.files import fingerprint_file
from components.listing import list_images
from components.progress import Progress
from components.sharding import choose_shards
from components.split import SplitPlan
from pipeline.config import Config, Extract, Train
from pipeline.config import Head as HeadSection
from pipeline.stages import Stages, open_run_folder

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from components.engine_choice import Closeness
    from components.ingest import IngestRules
    from components.model import Architecture
    from components.train import Recipe
    from components.views import Augment


def run_stages(config: Config, run: RunDir, stages: Stages, progress: Progress) -> None:
    """Run or skip every stage in turn; the outcomes are kept by stages."""
    do, seed = stages.do, config.seed
    thresholds, max_drop = config.evaluate.thresholds.model_dump(exclude_none=True), config.evaluate.max_accuracy_drop
    precision = config.abstain.precision if config.abstain else None
    gate, engine, beam = config.validation, config.extract, config.beam.runner

    # Read and check every new image, write it to the shard of its key and to the split that its class needs.
    examples = list_and_ingest(config, run, stages, progress)
    # Stop here if the data is not what it should be.
    validation = do(
        "validate",
        Validation,
        lambda: components.validate.validate_examples(
            examples, run, components.validate.Gate(**config.validation.model_dump()), make_options(beam)
        ),
        settings=[gate.model_dump(), fingerprint_file(gate.schema_path), fingerprint_file(gate.baseline_statistics)],
        after=["ingest"],
    )
    # Turn every image into its bottleneck, once.
    bottlenecks = do(
        "extract",
        Bottlenecks,
        lambda: components.bottlenecks.extract_bottlenecks(
            examples,
            config.backbone,
            engine.engine,
            make_closeness(engine),
            make_augment(config),
            run,
            make_options(beam),
            progress,
        ),
        settings=[
            [asdict(spec) for spec in config.backbone],
            *map(fingerprint_file, source_files(config.backbone)),
            engine.model_dump(),
            config.augment.model_dump(),
        ],
        after=["ingest"],
    )
    # Say which images look alike and which labels look wrong.
    audit = do(
        "audit",
        Audit,
        lambda: components.audit.audit_bottlenecks(examples, bottlenecks, run, config.audit.near_duplicate),
        settings=[config.audit.model_dump()],
        after=["extract"],
    )
    # Fit the head on the train split, keep the epoch that is best on the validation split.
    head = do(
        "train",
        Head,
        lambda: components.train.train_head(
            examples, bottlenecks, run, make_architecture(config.head), make_recipe(config.train), seed, progress
        ),
        settings=[config.head.model_dump(), config.train.model_dump(), seed],
        after=["validate", "extract"],
    )
    # Join backbone, head and labels in one SavedModel.
    export = do(
        "export",
        Export,
        lambda: components.export.export_model(
            examples, bottlenecks, head, make_architecture(config.head), make_augment(config), precision, run, seed
        ),
        settings=[precision],
        after=["train"],
    )
    # Measure that very model on the test split, and bless it or not.
    evaluation = do(
        "evaluate",
        Evaluation,
        lambda: components.evaluate.evaluate_model(
            examples, bottlenecks, export, run, thresholds, max_drop, make_options(beam)
        ),
        settings=[config.evaluate.model_dump()],
        after=["export"],
    )
    # Show all of it to a person.
    do(
        "report",
        Report,
        lambda: components.report.write_report(
            config.name,
            examples,
            validation,
            bottlenecks,
            audit,
            head,
            evaluation,
            run,
            seed,
            components.export.read_abstention(export.folder(run)),
        ),
        settings=[config.name],
        after=["audit", "evaluate"],
    )


def list_and_ingest(config: Config, run: RunDir, stages: Stages, progress: Progress) -> Examples:
    """Run or skip ingest; the list of all images, a hundred MiB for a hundred thousand, is held no longer."""
    data = config.data
    listing = list_images(data_place(config, progress), data.exclude, data.labels, data.group_pattern)
    open_run_folder(run)
    shards = config.beam.shards or choose_shards(len(listing.files))
    return stages.do(
        "ingest",
        Examples,
        lambda: components.ingest.ingest_images(
            listing, run, shards, make_rules(config), make_options(config.beam.runner), progress
        ),
        settings=[listing.fingerprint(), shards, data.model_dump(exclude={"path", "source"}), config.seed],
    )


def data_place(config: Config, progress: Progress) -> str | Sequence[str]:
    """Return where the images are: the user's place or places, or those of a named data set, fetched on first use."""
    if config.data.path:
        return config.data.path
    with progress.stage("data"):
        return str(components.datasets.locate_dataset(config.data.source, progress))


def make_rules(config: Config) -> IngestRules:
    """Return what ingest does with the files."""
    data = config.data
    plan = SplitPlan(data.split.model_dump(include=set(SPLITS)), data.split.train_per_class, config.seed)
    limits = components.images.Limits(data.max_bytes, data.max_pixels)
    return components.ingest.IngestRules(plan, limits, data.duplicates, data.label_conflicts, data.max_reject_share)


def make_closeness(extract: Extract) -> Closeness:
    """Return how close a faster engine must stay to TensorFlow in float32."""
    return components.engine_choice.Closeness(extract.median_cosine, extract.first_percentile_cosine)


def make_augment(config: Config) -> Augment:
    """Return which views of each image are extracted, and whether the model answers with their mean."""
    return components.views.Augment(**config.augment.model_dump())


def make_architecture(head: HeadSection) -> Architecture:
    """Return what the head is to be."""
    hidden = [components.model.HiddenLayer(**layer.model_dump()) for layer in head.hidden]
    return components.model.Architecture(hidden, head.output, head.normalize)


def make_recipe(train: Train) -> Recipe:
    """Return how the head is to be trained."""
    schedule = components.optimisation.Schedule(**train.schedule.model_dump())
    return components.train.Recipe(**{**train.model_dump(), "schedule": schedule})


def make_options(runner: str) -> PipelineOptions:
    """Return the options of every Beam pipeline of a run."""
    from apache_beam.options.pipeline_options import PipelineOptions

    # Since Beam 2.68 the name DirectRunner first tries to download another runner's binary; this is the in-process one.
    return PipelineOptions(["--runner", "FnApiRunner" if runner == "DirectRunner" else runner])
