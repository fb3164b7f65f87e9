"""The story: images to a blessed, servable classifier and a report, one statement a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module as load
from typing import TYPE_CHECKING, Any

from components.backbones.spec import Spec, name_specs, source_files
from components.outcomes import (
    Audit,
    Bottlenecks,
    Curve,
    Evaluation,
    Examples,
    Export,
    Head,
    Report,
    TunedHead,
    Validation,
)
from components.run_dir import RunDir
from components.storage.files import fingerprint_file
from components.terminal.progress import Progress
from pipeline.config import Config
from pipeline.runners import make_options
from pipeline.settings import (
    list_data,
    make_architecture,
    make_augment,
    make_closeness,
    make_curve_plan,
    make_origin,
    make_recipe,
    make_rules,
    make_tuning,
)
from pipeline.stages import Stages, hash_parts

if TYPE_CHECKING:
    from components.backbones.precomputed import ImportedBottlenecks
    from components.backbones.prepare import Backbone


def run_stages(config: Config, run: RunDir, stages: Stages, progress: Progress) -> None:
    """Run or skip every stage in turn; the outcomes are kept by stages."""
    do, seed = stages.do, config.seed
    thresholds, max_drop = config.evaluate.thresholds.model_dump(exclude_none=True), config.evaluate.max_accuracy_drop
    precision = config.abstain.precision if config.abstain else None
    gate = config.validation

    # Read and check every new image, write it to the shard of its key and to the split that its class needs.
    examples = list_and_ingest(config, run, stages, progress)
    # Stop here if the data is not what it should be.
    validation = do(
        "validate",
        Validation,
        lambda: load("components.validate.validate").validate_examples(
            examples,
            run,
            load("components.validate.validate").Gate(**config.validation.model_dump()),
            make_options(config.beam, config.name, "validate"),
        ),
        settings=[gate.model_dump(), fingerprint_file(gate.schema_path), fingerprint_file(gate.baseline_statistics)],
        after=["ingest"],
    )
    # Turn every image into its bottleneck, once.
    bottlenecks = extract("extract", config.backbone, config, examples, run, stages, progress)
    # Say which images look alike and which labels look wrong.
    audit = do(
        "audit",
        Audit,
        lambda: load("components.audit.audit").audit_bottlenecks(
            examples, bottlenecks, run, **config.audit.model_dump()
        ),
        settings=[config.audit.model_dump()],
        after=["extract"],
    )
    # Fit the head on the train split, keep the epoch that is best on the validation split.
    head = do(
        "train",
        Head,
        lambda: load("components.train.train").train_head(
            examples, bottlenecks, run, make_architecture(config.head), make_recipe(config.train), seed, progress
        ),
        settings=[
            config.head.model_dump(),
            config.train.model_dump(exclude={"finetune"}),
            fingerprint_file(config.train.former_model),
            seed,
        ],
        after=["validate", "extract"],
    )
    last = "train"
    if config.train.finetune:
        # Train on, now on images and with the last layers of the backbone.
        tuning = config.train.finetune
        tuned = do(
            "finetune",
            TunedHead,
            lambda: load("components.finetune.finetune").finetune_backbone(
                examples,
                bottlenecks,
                head,
                run,
                make_architecture(config.head),
                make_recipe(config.train),
                make_tuning(tuning),
                seed,
                progress,
            ),
            settings=[tuning.model_dump(), seed],
            after=["train"],
        )
        last, head = "finetune", tuned
        if tuned.backbone_id != bottlenecks.backbone_id:
            # Turn every image into the bottleneck of what the backbone became.
            last, folder = "reextract", run.backbones / tuned.backbone_id
            bottlenecks = extract_from(
                last,
                lambda: (load("components.backbones.prepare").read_backbone(folder), None),
                [tuned.backbone_id],
                ["finetune"],
                config,
                examples,
                run,
                stages,
                progress,
            )
    # Join backbone, head and labels in one SavedModel.
    export = do(
        "export",
        Export,
        lambda: load("components.export.export").export_model(
            examples, bottlenecks, head, make_architecture(config.head), make_augment(config), precision, run, seed
        ),
        settings=[precision],
        after=[last],
    )
    # Measure that very model on the test split, and bless it or not.
    evaluation = do(
        "evaluate",
        Evaluation,
        lambda: load("components.evaluate.evaluate").evaluate_model(
            examples, bottlenecks, export, run, thresholds, max_drop, make_options(config.beam, config.name, "evaluate")
        ),
        settings=[config.evaluate.model_dump()],
        after=["export"],
    )
    # Complete the model's card, and show all of it to a person.
    do(
        "report",
        Report,
        lambda: present_model(
            config, examples, validation, bottlenecks, audit, head, export, evaluation, run, stages.summary
        ),
        settings=[
            config.model_dump(mode="json", exclude={"output_dir": True, "data": {"path"}, "beam": True}),
            fingerprint_file(run.curve_rows),
        ],
        after=["audit", "evaluate"],
    )


def present_model(
    config: Config,
    examples: Examples,
    validation: Validation,
    bottlenecks: Bottlenecks,
    audit: Audit,
    head: Head,
    export: Export,
    evaluation: Evaluation,
    run: RunDir,
    summary: Mapping[str, Mapping[str, Any]],
) -> Report:
    """Complete the model's card and write the report, both of what was measured; summary is of the stages before."""
    measured = load("components.report.measured").read_measured(examples, export, evaluation, run)
    card = load("components.report.model_card").write_card(
        make_origin(config), examples, audit, export, evaluation, measured, run
    )
    return load("components.report.report").write_report(
        examples,
        validation,
        bottlenecks,
        audit,
        head,
        export,
        evaluation,
        measured,
        card,
        run,
        config.describe(),
        summary,
    )


def run_curve(config: Config, run: RunDir, stages: Stages, progress: Progress) -> None:
    """Run or skip what accuracy by images a class needs; the outcomes are kept by stages."""
    examples = list_and_ingest(config, run, stages, progress)
    # Each backbone alone: those side by side are joined from these, whatever other combinations are asked for.
    asked = config.curve.backbones or (config.backbone,)
    names = {spec: name_extraction(spec, config) for specs in asked for spec in specs}
    parts = {spec: extract(name, (spec,), config, examples, run, stages, progress) for spec, name in names.items()}
    backbones = {name_specs(specs): [parts[spec] for spec in specs] for specs in asked}
    # Train and measure a head for each backbone, number of images a class and draw.
    stages.do(
        "curve",
        Curve,
        lambda: load("components.curve.curve").measure_curve(
            examples,
            backbones,
            make_curve_plan(config.curve),
            make_architecture(config.head),
            make_recipe(config.train),
            run,
            config.seed,
            progress,
        ),
        settings=[
            config.curve.model_dump(),
            config.head.model_dump(),
            config.train.model_dump(exclude={"finetune"}),
            config.seed,
        ],
        after=["ingest", *names.values()],
    )


def name_extraction(spec: Spec, config: Config) -> str:
    """Return the name of the stage that extracts one backbone: a run's own where it is the run's."""
    return "extract" if config.backbone == (spec,) else f"extract-{hash_parts([asdict(spec)])}"


def list_and_ingest(config: Config, run: RunDir, stages: Stages, progress: Progress) -> Examples:
    """Run or skip ingest; the list of all images, a hundred MiB for a hundred thousand, is held no longer."""
    data, listing = config.data, list_data(config, progress)

    def ingest() -> Examples:
        # What training would refuse of the config it refuses now, and not once all images are read.
        load("components.train.train").check_recipe(
            listing.labels, make_architecture(config.head), make_recipe(config.train)
        )
        rules, options = make_rules(config), make_options(config.beam, config.name, "ingest")
        return load("components.ingest.ingest").ingest_images(
            listing, run, config.beam.shards, rules, options, progress
        )

    return stages.do(
        "ingest",
        Examples,
        ingest,
        settings=[
            listing.fingerprint(),
            {**data.model_dump(exclude={"path", "source"}), "shards": config.beam.shards},
            config.seed,
        ],
    )


def extract(
    name: str,
    specs: tuple[Spec, ...],
    config: Config,
    examples: Examples,
    run: RunDir,
    stages: Stages,
    progress: Progress,
) -> Bottlenecks:
    """Run or skip the extraction of the backbones side by side that specs name, as a stage of some name."""
    return extract_from(
        name,
        lambda: load("components.extract.extract").open_source(specs, run.backbones, progress),
        [[asdict(spec) for spec in specs], *map(fingerprint_file, source_files(specs))],
        ["ingest"],
        config,
        examples,
        run,
        stages,
        progress,
    )


def extract_from(
    name: str,
    open_source: Callable[[], tuple[Backbone, ImportedBottlenecks | None]],
    origin: Sequence[Any],
    after: Sequence[str],
    config: Config,
    examples: Examples,
    run: RunDir,
    stages: Stages,
    progress: Progress,
) -> Bottlenecks:
    """Run or skip the extraction of the backbone that open_source returns and origin, plain values, identifies."""
    engine, augment = config.extract, config.augment
    return stages.do(
        name,
        Bottlenecks,
        lambda: load("components.extract.extract").extract_bottlenecks(
            examples,
            open_source(),
            engine.engine,
            make_closeness(engine),
            make_augment(config),
            run,
            make_options(config.beam, config.name, name),
            progress,
        ),
        settings=[*origin, engine.model_dump(), augment.model_dump()],
        after=after,
    )
