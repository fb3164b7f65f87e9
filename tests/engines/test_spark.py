"""Spark: a run, and extract through the loss of a part of the cluster."""

import json
import os
import signal

import pytest
from clusters import wait_for
from toys import write_config
from trials import contents, finish, list_servers, topgraft

from components.run_dir import RunDir

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_a_run_by_three_lines_of_config_has_the_files_of_one_in_process(spark, settings, expected, tmp_path):
    run = RunDir(tmp_path / "run")
    values = {**settings, "beam": {**settings["beam"], **spark.beam}, "output_dir": str(run.root)}
    output, errors = (process := topgraft("run", write_config(tmp_path / "toy.yaml", **values), "--json")).communicate()
    assert process.returncode == 0, errors
    record = json.loads(output)
    for folder in ("examples", "bottlenecks", "audit"):
        assert contents(run.root / folder) == contents(expected.root / folder)
    assert record["metrics"] == pytest.approx(json.loads(expected.record.read_text())["metrics"], abs=1e-6)
    print({stage: entry["seconds"] for stage, entry in record["stages"].items()})


def test_extract_survives_the_kill_of_an_executor(spark, attempt):
    trial = attempt(spark, "extract")
    process = trial.start_working()
    os.kill(spark.executors()[0], signal.SIGKILL)
    finish(process)
    trial.check()


def test_extract_survives_the_kill_of_a_worker_and_its_executor(spark, attempt):
    trial = attempt(spark, "extract")
    process = trial.start_working()
    spark.kill_group("worker0")
    finish(process)
    trial.check()
    spark.start_worker(0)


def test_the_loss_of_the_driver_is_one_sentence_and_the_command_goes_on_after_it(spark, attempt):
    trial = attempt(spark, "extract")
    process = trial.start_working()
    os.kill(list_servers()[0], signal.SIGKILL)
    assert "then the same command continues where it stopped" in finish(process, 2, 120)
    wait_for(lambda: not spark.executors(), 60)
    finish(trial.start())
    trial.check()


def test_an_interrupted_command_ends_its_application(spark, attempt):
    trial = attempt(spark, "extract")
    process = trial.start_working()
    process.send_signal(signal.SIGINT)
    assert "interrupted" in finish(process, 130, 60)
    wait_for(lambda: not spark.executors(), 60)
