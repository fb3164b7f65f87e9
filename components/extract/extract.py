"""Extract: apply the backbone to every example shard, computing only bottlenecks that no earlier run has written."""

from __future__ import annotations

import json
from dataclasses import replace

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared

from components.backbones.precomputed import ImportedBottlenecks
from components.backbones.prepare import Backbone, prepare_backbone, read_backbone, write_imported
from components.backbones.settings import Augment
from components.backbones.spec import Spec, has_network
from components.backbones.views import list_views
from components.errors import DamagedFile, UserError
from components.extract.engine_choice import choose_engines
from components.extract.settings import EngineChoice
from components.extract.write_shards import ExtractShard, ShardOutcome
from components.features import TENSORFLOW
from components.outcomes import Bottlenecks, Examples, TunedHead, Work
from components.run_dir import RunDir
from components.shards.names import shard_names
from components.shards.records import check_count, list_former
from components.shards.spans import list_shards
from components.storage.files import PARTIAL, remove_partials, write_text
from components.storage.ownership import claim_files, remove_written
from components.terminal.progress import Progress

# Bytes of a bottleneck record without its floats, for the progress bar.
RECORD_OVERHEAD = 250


def extract_bottlenecks(
    examples: Examples,
    source: tuple[Spec, ...] | TunedHead,
    choice: EngineChoice,
    augment: Augment,
    run: RunDir,
    options: PipelineOptions,
    progress: Progress,
) -> Bottlenecks:
    """Write a bottleneck shard for every example shard, of backbones side by side or of a fine-tuned one.

    Raises UserError for ready-made bottlenecks that do not suit the settings, and DamagedFile.
    """
    backbone, imported = open_source(source, run, progress)
    views = list_views(augment)
    if imported and len(views) > 1:
        raise UserError(
            "augment asks for views of images, ready-made bottlenecks have one: remove the section augment."
        )
    engine, test_engine = (TENSORFLOW, "") if imported else choose_engines(examples, backbone, choice, run)
    outcome = Bottlenecks(
        Work(), backbone.name, backbone.id, backbone.dim, engine, augment.name, len(views), augment.average, test_engine
    )
    folder = outcome.folder(run)
    former = list_former(folder, examples.shards)
    current = [name for shard in list_shards(examples.shards) for name in shard_names(shard)]
    claim_files(folder, current)
    remove_partials(folder)
    outcome_file = folder / f"outcome.json{PARTIAL}"
    extract = ExtractShard(run, outcome, former, augment, Shared(), imported)
    vectors = 1 if len(views) == 1 else 1 + len(views)
    size = examples.written * (4 * backbone.dim * vectors + RECORD_OVERHEAD)
    watch = progress.watch_folder(folder, size, examples.written, "images")
    with watch, beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | "List shards" >> beam.Create([tuple(shard) for shard in list_shards(examples.shards)])
            | "Spread shards" >> beam.Reshuffle()
            | "Extract shards" >> beam.ParDo(extract)
            | "Collect outcomes" >> beam.combiners.ToList()
            | "Write outcome" >> beam.Map(lambda outcomes: write_text(outcome_file, json.dumps(outcomes)))
        )
    done = [ShardOutcome(*row) for row in json.loads(outcome_file.read_text(encoding="utf-8"))]
    outcome_file.unlink()
    for damaged in (shard.damaged for shard in done if shard.damaged):
        raise DamagedFile(damaged)
    work = Work(examples.written, sum(shard.reused for shard in done), sum(shard.computed for shard in done))
    check_count(work.reused + work.computed, examples.written, folder)
    remove_written(folder, keep=current)
    return replace(outcome, work=work)


def open_source(
    source: tuple[Spec, ...] | TunedHead, run: RunDir, progress: Progress
) -> tuple[Backbone, ImportedBottlenecks | None]:
    """Return the prepared backbone, and the ready-made bottlenecks where the spec has some."""
    folder = run.backbones
    if isinstance(source, TunedHead):
        return read_backbone(folder / source.backbone_id), None
    spec = source[0]
    if not spec.bottlenecks:
        return prepare_backbone(source, folder, progress), None
    if len(source) > 1:
        raise UserError(
            "backbone.bottlenecks is in a list, but ready-made bottlenecks need to be alone: name one backbone."
        )
    imported = ImportedBottlenecks(spec)
    network = prepare_backbone(source, folder, progress) if has_network(spec) else None
    if network and network.dim != imported.dim:
        raise UserError(
            f"The bottlenecks in '{spec.bottlenecks}' are {imported.dim} wide, those of '{network.name}' "
            f"{network.dim}: name the backbone that they came from, or leave it out."
        )
    return write_imported(spec.title, imported, network, folder), imported
