"""Whatever a person keeps in and around a run directory, each file of it is as it was after any command.

TOPGRAFT_ARRANGEMENTS sets how many arrangements are generated.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
from toys import paint_images, write_config

from components.storage.places import list_files

ARRANGEMENTS = int(os.environ.get("TOPGRAFT_ARRANGEMENTS", 6))
MINE = "mine, whatever a run thinks of it"
# Names beside those that a run writes itself, which are drawn from too.
NAMES = (
    *(
        "notes.txt",
        "config.yaml",
        "lock",
        "probe",
        "run.json.bak",
        "model.partial",
        "report/notes.md",
        "report/index.html.bak",
    ),
    *("examples/mine.tfrecord", "examples/train-00000-of-00007.tfrecord", "examples/files-00000-of-00007.json"),
    *(
        "examples/begun-files-00000-of-00002.json",
        "examples/cyan/1.png",
        "examples/train-span3-00000-of-00001.tfrecord",
    ),
    *("bottlenecks/mine.tfrecord", "bottlenecks/{id}/test-00003-of-00009.tfrecord", "bottlenecks/{id}/outcome.json"),
    *(
        "bottlenecks/{id}/test-mine.tfrecord",
        "backbone/notes",
        "backbone/{id}/notes",
        "audit/notes.csv",
        "audit/inner/n",
    ),
    *("model/notes", "model/model.ckpt-9.index", "model/eval/notes", "finetuned/notes", "stages/notes.json"),
    *("stages/train.json.partial", "export/notes", "export/20991231/saved_model.pb", "export/{version}/notes"),
    *("export/{version}/assets/notes", "tflite/notes", "tflite/{version}/notes", "evaluation/notes", "curve/notes"),
    *("evaluation/BLESSED.bak", "validation/my_schema.pbtxt", "curve/curve.csv", "curve/index.html", "throughput.json"),
    *("plots/a.png", ".hidden", "..odd", "with space/ä", "stages/curve.json", "predictions.csv"),
)
# Each with how often it is drawn, the quick ones more often.
COMMANDS = [
    *[["run", "--from", "report"], ["run", "--only", "audit"], ["run", "--only", "ingest", "beam.shards=1"]] * 4,
    *[["run"], ["run", "--from", "export"], ["run", "--only", "validate"], ["run", "--only", "train"], ["export"]] * 2,
    *(["run", "--from", "ingest"], ["run", "seed=1"], ["run", "beam.shards=1"], ["run", "train.epochs=1"], ["curve"]),
    ["plan"],
]
# In no time at all, and before or after the shortest of these ends.
KILLED_AFTER = (0.0, 3.0)


class Arrangement(NamedTuple):
    """Files of a person by name below the run directory, how far the run had come, and what is done then."""

    mine: list[str]
    start: str  # finished, ingested, new or foreign
    commands: list[tuple[list[str], float | None]]  # words, and the seconds after which the command is killed


@pytest.fixture(scope="module")
def starts(tmp_path_factory, toy_backbone):
    """Run directories as they are after ingest and at the end, and the values of their config."""
    place = tmp_path_factory.mktemp("starts")
    values = {
        "name": "t",
        "data": {"path": str(paint_images(place / "images", per_class=12))},
        "backbone": toy_backbone,
        "train": {"epochs": 2},
        "curve": {"shots": [3], "draws": 1},
        "evaluate": {"thresholds": {"accuracy": 0.1}},
        "beam": {"shards": 2},
        "output_dir": str(place / "run"),
    }
    config, context = str(write_config(place / "c.yaml", **values)), forked.open_server()
    for name, words in (("ingested", ["--only", "ingest"]), ("finished", [])):
        process = forked.start(context, ["run", config, *words], str(place / "log"))
        process.join()
        assert process.exitcode == 0, (place / "log").read_text()
        shutil.copytree(place / "run", place / name)
    return place, values, context


def draw(chance: random.Random, finished: Path) -> Arrangement:
    """Draw an arrangement."""
    written = [*list_files(finished)]
    ids = {
        "id": next((finished / "backbone").glob("*[!.]*")).name,
        "version": next(finished.glob("export/[0-9]*")).name,
    }
    names = [name.format(**ids) for name in chance.sample(NAMES, chance.randint(1, 12))]
    names += chance.sample(written, chance.randint(0, 3))
    mine = [name for name in names if not any(other.startswith(f"{name}/") for other in (*names, *written))]
    commands = [
        (chance.choice(COMMANDS), chance.uniform(*KILLED_AFTER) if chance.random() < 0.4 else None)
        for _ in range(chance.choice((1, 1, 2)))
    ]
    # What was killed is given again.
    commands = [
        one
        for words, killed in commands
        for one in ([(words, killed)] if killed is None else [(words, killed), (words, None)])
    ]
    return Arrangement(mine, chance.choice(("finished",) * 5 + ("ingested", "ingested", "new", "foreign")), commands)


def arrange(arrangement: Arrangement, place: Path, starts: Path) -> dict[Path, str]:
    """Lay out an arrangement; return the content of all files of the person."""
    run = place / "run"
    if arrangement.start in ("finished", "ingested"):
        shutil.copytree(starts / arrangement.start, run)
    written = {*list_files(run)} if run.exists() else set()
    around = [
        place / "notes",
        place / "run.json",
        place / "run.partial" / "x",
        place / "export" / "1" / "saved_model.pb",
    ]
    inside = [run / name for name in arrangement.mine if name not in written and arrangement.start != "new"]
    for file in (*around, *inside):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{MINE}: {file.name}")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):  # a folder or a file has the name
            continue
    return {file: f"{MINE}: {file.name}" for file in (*around, *inside) if file.is_file()}


def call(words: list[str], config: Path, run: Path) -> list[str]:
    """Return the words of a command line."""
    if words[0] == "export":
        return ["export", str(run), "--to", "tflite"]
    return [words[0], str(config), *words[1:]]


@pytest.mark.parametrize("seed", range(ARRANGEMENTS))
def test_files_of_a_person_are_as_they_were(starts, tmp_path, seed):
    origin, values, context = starts
    arrangement = draw(random.Random(seed), origin / "finished")
    run = tmp_path / "run"
    mine = arrange(arrangement, tmp_path, origin)
    config = write_config(tmp_path / "c.yaml", **{**values, "output_dir": str(run)})
    statuses = []
    for words, killed_after in arrangement.commands:
        process = forked.start(context, call(words, config, run), str(tmp_path / "log"))
        started = time.monotonic()
        process.join(killed_after)
        if killed_after is not None and process.is_alive():
            process.kill()
        process.join(600 - (time.monotonic() - started))
        statuses.append(process.exitcode)
        lost = [str(file) for file, content in mine.items() if not file.is_file() or file.read_text() != content]
        assert lost == [], (arrangement, statuses, (tmp_path / "log").read_text()[-2000:])
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said, (arrangement, said[-3000:])
    assert {*statuses} <= {0, 2, 3, -9}, (arrangement, statuses, said[-2000:])
    shutil.rmtree(run, ignore_errors=True)
