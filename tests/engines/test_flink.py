"""Flink: a run, and each job through the loss of a part of the cluster."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clusters import find_port, inside, wait_for
from toys import write_config
from trials import contents, finish, list_servers, topgraft

from components.export.versions import list_versions
from components.run_dir import RunDir
from components.storage.files import PARTIAL

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_a_run_by_three_lines_of_config_has_the_files_of_one_in_process(flink, settings, expected, tmp_path):
    run = RunDir(tmp_path / "run")
    values = {**settings, "beam": {**settings["beam"], **flink.beam}, "output_dir": str(run.root)}
    process = topgraft("run", write_config(tmp_path / "toy.yaml", **values), "--json")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    record = json.loads(output)
    for folder in ("examples", "bottlenecks", "audit"):
        assert contents(run.root / folder) == contents(expected.root / folder)
    assert record["metrics"] == pytest.approx(json.loads(expected.record.read_text())["metrics"], abs=1e-6)
    schemas = [sorted((root.validation / "schema.pbtxt").read_text().splitlines()) for root in (run, expected)]
    assert schemas[0] == schemas[1]
    names = {job["name"].rpartition("-")[0] for job in flink.jobs("FINISHED")}
    assert names >= {f"topgraft-toy-{stage}" for stage in ("check", "ingest", "validate", "extract", "evaluate")}
    print({stage: entry["seconds"] for stage, entry in record["stages"].items()})


def test_predictions_are_the_very_file_of_the_plain_command(flink, settings, expected, tmp_path):
    words = ["predict", list_versions(expected.exports)[-1], settings["data"]["path"], "--output"]
    finish(topgraft(*words, tmp_path / "plain.csv"))
    flags = [f"--{key}={value}" for key, value in flink.beam.items()]
    finish(topgraft(*words, tmp_path / "job.csv", "--beam", "shards=6", "--", *flags))
    assert (tmp_path / "job.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


@pytest.mark.parametrize("stage", ["ingest", "validate", "extract", "evaluate"])
def test_a_stage_survives_the_kill_of_a_taskmanager(flink, attempt, stage):
    trial = attempt(flink, stage)
    if stage in ("ingest", "extract"):
        process = trial.start_working()
    else:
        process = trial.start()
        wait_for(lambda: any(f"-{stage}-" in job["name"] for job in flink.jobs("RUNNING")))
        time.sleep(3)
    flink.kill("taskmanager0")
    flink.start_manager(0)
    finish(process)
    trial.check()
    flink.wait_for_slots(3)


def test_extract_survives_the_kill_of_a_python_worker(flink, attempt):
    trial = attempt(flink, "extract")
    process = trial.start_working()
    partial = wait_for(trial.at_work)[0]
    os.kill(int(re.search(r"\.(\d+)\.[0-9a-f]{32}\.", partial.name)[1]), signal.SIGKILL)
    finish(process)
    trial.check()


def test_the_loss_of_the_jobmanager_is_one_sentence_and_the_command_goes_on_after_it(flink, attempt):
    trial = attempt(flink, "extract")
    process = trial.start_working()
    flink.kill("jobmanager")
    sentence = finish(process, 2, 120)
    assert f"JobManager at {flink.rest} does not answer" in sentence
    flink.start_master()
    flink.wait_for_slots(3)
    finish(trial.start())
    trial.check()


def test_a_killed_command_leaves_nothing_that_the_next_one_does_not_end(flink, attempt):
    trial = attempt(flink, "extract")
    process = trial.start_working()
    process.kill()
    process.wait()
    wait_for(lambda: not list_servers(), 30)
    finish(trial.start())
    trial.check()
    wait_for(lambda: not flink.jobs("RUNNING", "CREATED", "RESTARTING", "CANCELLING"), 30)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interrupted_command_cancels_its_job(flink, attempt, number, status):
    trial = attempt(flink, "extract")
    process = trial.start_working()
    process.send_signal(number)
    assert "interrupted" in finish(process, status, 60)
    assert not flink.jobs("RUNNING", "CREATED", "RESTARTING")
    flink.wait_for_slots(3)


@pytest.mark.parametrize("kind", ["hangs", "ends", "is missing"])
def test_a_worker_that_does_not_start_is_one_sentence(flink, attempt, tmp_path, kind):
    program = tmp_path / "worker"
    if kind != "is missing":
        program.write_text(f"#!/bin/sh\n{'sleep 600' if kind == 'hangs' else 'exit 3'}\n")
        program.chmod(0o755)
    config = json.dumps({"command": str(program)})
    trial = attempt(flink, "extract", environment_type="PROCESS", environment_config=config)
    start = time.monotonic()
    sentence = finish(trial.start(), 2)
    assert "worker could not start" in sentence or "0 have started within" in sentence
    assert time.monotonic() - start < 180
    subprocess.run(["pkill", "-f", f"^/bin/sh {program}"], check=False)
    flink.wait_for_slots(3)


def test_a_host_without_the_run_folder_is_noticed(flink, attempt):
    trial = attempt(flink, "extract")
    before = flink.identities()
    flink.kill("taskmanager1")
    flink.start_manager(1, hidden=trial.run.root)
    # The dead one counts until its heartbeat is missed, and a job can run on the two others one task after another.
    wait_for(lambda: len(flink.identities()) == 3 and flink.identities() != before)
    try:
        assert f"1 of 3 workers do not see the folder '{trial.run.root}'" in finish(trial.start(), 2)
    finally:
        flink.kill("taskmanager1")
        flink.start_manager(1)
        flink.wait_for_slots(3)


def test_a_full_disk_is_one_sentence_and_the_command_goes_on_after_it(flink, attempt):
    trial = attempt(flink, "extract")
    folder = trial.folders()[0] if trial.folders() else next((trial.expected.root / "bottlenecks").glob("*/"))
    place = trial.run.root / "bottlenecks" / folder.name
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", place], check=True)
    try:
        assert "no space left" in finish(trial.start(), 2)
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    finish(trial.start())
    trial.check()


def test_each_host_has_a_pool_of_workers(flink, attempt):
    port = find_port()
    program = Path(sys.executable).parent / "topgraft"
    pools = [
        subprocess.Popen([*inside(number), program, "worker", "--port", str(port)], stdout=subprocess.PIPE)
        for number in range(3)
    ]
    try:
        for pool in pools:
            pool.stdout.readline()
        trial = attempt(flink, "extract", environment_type="EXTERNAL", environment_config=f"localhost:{port}")
        finish(trial.start())
        trial.check()
    finally:
        for pool in pools:
            pool.terminate()
            pool.wait()


@pytest.mark.parametrize("stage", ["ingest", "extract"])
def test_a_cable_is_cut_for_a_minute_and_restored_while_the_lost_attempt_still_writes(flink, attempt, stage):
    trial = attempt(flink, stage)
    before = flink.identities()
    process = trial.start_working()
    flink.set_cable(0, "down")
    try:
        time.sleep(60)
    finally:
        flink.set_cable(0, "up")
    finish(process)
    # The attempt of the lost host may still be at work; it must change nothing when it ends.
    wait_for(lambda: not [*trial.run.root.rglob(f"*{PARTIAL}")], 120)
    trial.check()
    wait_for(lambda: len(flink.identities()) == len(before))
    flink.wait_for_slots(3)


def test_a_pool_listens_on_loopback_only_and_refuses_a_worker_that_cannot_start():
    import grpc
    from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

    port = find_port()
    pool = topgraft("worker", "--port", port)
    try:
        pool.stdout.readline()
        listening = subprocess.run(["ss", "-ltnH", f"sport = :{port}"], capture_output=True, text=True).stdout.split()
        places = {word.rpartition(":")[0] for word in listening if word.endswith(f":{port}")}
        assert places <= {"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"}
        stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(grpc.insecure_channel(f"localhost:{port}"))
        request = beam_fn_api_pb2.StartWorkerRequest(worker_id="1-1")
        request.provision_endpoint.url = f"localhost:{find_port()}"
        assert "could not start 1-1" in stub.StartWorker(request).error
    finally:
        pool.terminate()
        pool.wait()
