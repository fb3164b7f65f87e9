import json
import sys
from pathlib import Path

import pytest
from toys import write_config

from pipeline.clusters.connect import complete_settings, connect_run, name_job_of
from pipeline.config import BeamSettings
from pipeline.load_config import load_config
from pipeline.run_lock import RunDir


@pytest.fixture(autouse=True)
def worker(tmp_path, monkeypatch):
    """An installation with a worker program."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "topgraft-worker").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    return tmp_path / "bin" / "topgraft-worker"


def test_three_lines_get_what_a_job_on_flink_needs(worker):
    beam = complete_settings(BeamSettings(runner="FlinkRunner", flink_master="h:1"), "Flink", 4, "localhost:5")
    assert beam.runner == "PortableRunner"
    assert json.loads(beam.options["environment_config"]) == {"command": str(worker)}
    assert (beam.options["environment_type"], beam.options["parallelism"]) == ("PROCESS", 4)
    assert beam.options["experiments"] == ["pre_optimize=all"]
    options = name_job_of(beam, "birds-extract", "0a1b").get_all_options()
    assert options["job_name"] == "topgraft-birds-extract-0a1b"
    assert options["job_endpoint"] == "localhost:5"


def test_the_users_keys_win():
    own = {"parallelism": 2, "experiments": ["x"], "environment_type": "EXTERNAL", "environment_config": "localhost:1"}
    given = BeamSettings(runner="FlinkRunner", execution_mode_for_batch="PIPELINED", **own)
    beam = complete_settings(given, "Flink", 4, "localhost:5")
    assert {key: beam.options[key] for key in own} == own
    assert beam.options["execution_mode_for_batch"] == "PIPELINED"


def test_places_are_absolute_for_workers_elsewhere_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.runners.find_cluster", lambda beam: None)
    values = {"name": "x", "data": {"path": "images"}}
    local = load_config(write_config(tmp_path / "a.yaml", **values), [])
    assert (local.data.path, local.run_folder) == ("images", Path("runs/x"))
    far = load_config(write_config(tmp_path / "b.yaml", **values, beam={"runner": "FlinkRunner"}), [])
    assert (far.data.path, far.run_folder) == (str(tmp_path / "images"), tmp_path / "runs" / "x")


def test_a_stage_whose_images_fit_in_one_shard_runs_in_this_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.runners.find_cluster", lambda beam: None)
    monkeypatch.setattr("pipeline.clusters.connect.find_cluster", lambda beam: None)
    values = {"name": "x", "data": {"path": "images"}, "output_dir": str(tmp_path / "run")}
    config = load_config(write_config(tmp_path / "c.yaml", **values, beam={"runner": "FlinkRunner"}), [])
    with connect_run(config, RunDir(config.run_folder)) as make_job:
        assert make_job("extract", 1200).get_all_options()["runner"] == "FnApiRunner"
    assert "extract runs in this process, as its 1,200 images fit in one shard" in capsys.readouterr().err
