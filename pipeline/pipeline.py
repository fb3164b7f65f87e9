"""The pipeline from images to a blessed, servable classifier and a report, one statement per stage."""

from __future__ import annotations

from components.backbones.spec import Spec, name_specs
from components.data.image_list import Listing
from components.data.listing import list_images
from components.outcomes import (
    Audit,
    Bottlenecks,
    Curve,
    Evaluation,
    Examples,
    Export,
    Head,
    Report,
    Results,
    TunedHead,
    Validation,
)
from components.run_dir import RunDir
from components.terminal.progress import Progress
from components.train.settings import check_recipe
from pipeline.config import Config
from pipeline.output_dir import check_apart, exclude_runs
from pipeline.stage_inputs import hash_parts
from pipeline.stages import Stage, Stages

INGEST = Stage("ingest", "components.ingest.ingest:ingest_images", Examples)
VALIDATE = Stage("validate", "components.validate.validate:validate_examples", Validation)
EXTRACT = Stage("extract", "components.extract.extract:extract_bottlenecks", Bottlenecks)
AUDIT = Stage("audit", "components.audit.audit:audit_bottlenecks", Audit)
TRAIN = Stage("train", "components.train.train:train_head", Head)
FINETUNE = Stage("finetune", "components.finetune.finetune:finetune_backbone", TunedHead)
EXPORT = Stage("export", "components.export.export:export_model", Export)
EVALUATE = Stage("evaluate", "components.evaluate.evaluate:evaluate_model", Evaluation)
REPORT = Stage("report", "components.report.report:write_report", Report)
CURVE = Stage("curve", "components.curve.curve:measure_curve", Curve)


def run_stages(config: Config, run: RunDir, stages: Stages) -> None:
    """Run or skip every stage in turn; stages keeps the outcomes."""
    do = stages.run
    # Read and check every new image, write it to the shard of its key and to the split that its class needs.
    examples = do(INGEST, list_data(config, stages.progress), config.data.rules, config.beam.shards, config.seed)
    # Stop here if the data breaks the schema or a limit.
    validation = do(VALIDATE, examples, config.validation)
    # Compute the bottleneck of every image once.
    bottlenecks = do(EXTRACT, examples, config.backbone, config.extract, config.augment)
    # Find near-duplicate images and suspicious labels.
    audit = do(AUDIT, examples, bottlenecks, config.audit)
    # Fit the head on the train split, keep the epoch that is best on the validation split.
    head = do(TRAIN, examples, bottlenecks, config.head, config.recipe)
    if config.train.finetune:
        # Continue training on images, with the last layers of the backbone.
        head = tuned = do(FINETUNE, examples, bottlenecks, head, config.head, config.tuned_recipe)
        if tuned.backbone_id != bottlenecks.backbone_id:
            # Compute the bottlenecks of the fine-tuned backbone.
            bottlenecks = do(EXTRACT.named("reextract"), examples, tuned, config.extract, config.augment)
    # Join backbone, head and labels in one SavedModel.
    export = do(EXPORT, examples, bottlenecks, head, config.head, config.augment, config.abstain)
    # Measure the exported model on the test split, and bless it or not.
    evaluation = do(EVALUATE, examples, bottlenecks, export, config.evaluate)
    # Complete the model card, and write the report.
    results = Results(examples, validation, bottlenecks, audit, head, export, evaluation)
    do(REPORT, results, config.backbone, config.describe_model(), run.curve_rows)


def run_curve(config: Config, stages: Stages) -> Curve:
    """Run or skip the stages of a learning curve (accuracy by training images per class); return its outcome."""
    do = stages.run
    examples = do(INGEST, list_data(config, stages.progress), config.data.rules, config.beam.shards, config.seed)
    # Extract each backbone alone; combinations are joined from these.
    asked = config.curve.backbones or (config.backbone,)
    parts = {
        spec: do(EXTRACT.named(name_extraction(spec, config)), examples, (spec,), config.extract, config.augment)
        for spec in dict.fromkeys(spec for specs in asked for spec in specs)
    }
    backbones = {name_specs(specs): [parts[spec] for spec in specs] for specs in asked}
    # Train and measure a head for each backbone, number of images per class and draw.
    return do(CURVE, examples, backbones, config.curve.plan, config.head, config.recipe)


def name_extraction(spec: Spec, config: Config) -> str:
    """Return the name of the stage that extracts one backbone; the run's own backbone shares the run's stage."""
    return "extract" if config.backbone == (spec,) else f"extract-{hash_parts([str(spec)])}"


def list_data(config: Config, progress: Progress) -> Listing:
    """Return the list of all images, without run directories; a published data set is downloaded on first use.

    Raises UserError for unusable data, an image in the run directory, and a config that training would refuse.
    """
    data = config.data
    place = data.path
    if not place:
        from components.data.published import locate_dataset

        assert data.source
        with progress.stage("data"):
            place = str(locate_dataset(data.source, progress))
    listing = list_images(place, data.exclude, data.labels, data.group_pattern, data.layout, exclude_runs(config))
    check_apart(listing, RunDir(config.run_folder))
    check_recipe(listing.labels, config.head, config.recipe)
    return listing
