"""Jobs for Dataflow, as they would be submitted: translated and staged by Beam, upload and submission replaced."""

import json
import re
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from toys import write_config

from components.export.versions import list_versions
from pipeline.cli import main

ROOT = Path(__file__).parents[1]
BEAM = {
    "runner": "DataflowRunner",
    "project": "a-project",
    "region": "us-central1",
    "temp_location": "gs://bucket/tmp",
    "sdk_container_image": "registry/topgraft:1",
    "machine_type": "n1-standard-4",
    "num_workers": 2,
    "max_num_workers": 8,
    "disk_size_gb": 50,
    "number_of_worker_harness_threads": 4,
    "service_account_email": "worker@a-project.iam.gserviceaccount.com",
    "use_public_ips": False,
    "labels": ["team=birds"],
    "no_auth": True,
}
STEPS = {
    "ingest": {"List shards", "Spread shards", "Write example shards"},
    "validate": {"Read train examples", "Describe val images", "Name test", "Compute statistics", "Write statistics"},
    "extract": {"List shards", "Spread shards", "Extract shards", "Collect outcomes", "Write outcome"},
    "evaluate": {"ReadFromTFRecordToArrow", "ExtractEvaluateAndWriteResults"},
    "predict": {"List shards", "Spread shards", "Predict"},
}


class Submitted(Exception):
    """A job has been submitted, all but for the network."""


@pytest.fixture
def submit(toy_run, toy_config, tmp_path, monkeypatch):
    """Return a function that runs a stage of a finished run, or predict, on Dataflow up to the submission.

    It gives the job, the pipeline, and the files that were staged, by name.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

    staged = {}

    def stage(client, location, name, stream, *_, **__):
        assert location.startswith("gs://bucket/tmp/")
        staged[name] = stream.read()

    def send(client, job):
        raise Submitted(job)

    monkeypatch.setattr(DataflowApplicationClient, "stage_file", stage)
    monkeypatch.setattr(DataflowApplicationClient, "submit_job_description", send)
    monkeypatch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *_: None)
    # The run lies on this machine.
    monkeypatch.setattr("pipeline.runners.check_places", lambda *_: None)

    def run(stage, **beam):
        root = tmp_path / "run"
        shutil.copytree(toy_run.root, root, dirs_exist_ok=True)
        if stage == "ingest":  # else nothing is new
            shutil.rmtree(root / "examples")
        options = {**BEAM, **beam}
        if stage == "predict":
            flags = [f"--{key}={value}" for key, value in options.items() if isinstance(value, (str, int))]
            flags = [flag for flag in flags if not flag.endswith(("=True", "=False"))] + ["--no_auth"]
            export = list_versions(toy_run.exports)[-1]
            words = [str(export), toy_config["data"]["path"], "--output", str(tmp_path / "out.csv"), "--", *flags]
        else:
            values = {**toy_config, "beam": {**toy_config["beam"], **options}, "output_dir": str(root)}
            words = [str(write_config(tmp_path / "toy.yaml", **values)), "--only", stage]
        with pytest.raises(Submitted) as raised:
            main(["predict" if stage == "predict" else "run", *words])
        job = raised.value.args[0]
        return job.proto, job.proto_pipeline, staged

    return run


def read_options(job):
    """Return the options that the workers are given."""
    from apitools.base.py import encoding

    options = json.loads(encoding.MessageToJson(job.environment.sdkPipelineOptions))
    return options["options"]


@pytest.mark.parametrize("stage", STEPS)
def test_every_job_of_topgraft_is_one_for_dataflow(submit, stage):
    job, pipeline, staged = submit(stage)
    assert job.name == ("topgraft-predict" if stage == "predict" else f"topgraft-toy-{stage}")
    steps = {transform.unique_name.split("/")[0] for transform in pipeline.components.transforms.values()}
    assert STEPS[stage] <= steps
    (pool,) = job.environment.workerPools
    assert {image.containerImage for image in pool.sdkHarnessContainerImages} == {"registry/topgraft:1"}
    assert (pool.numWorkers, pool.autoscalingSettings.maxNumWorkers) == (2, 8)
    assert (pool.machineType, pool.diskSizeGb, pool.numThreadsPerWorker) == ("n1-standard-4", 50, 4)
    assert job.environment.serviceAccountEmail == BEAM["service_account_email"]
    assert {"use_runner_v2", "no_use_multiple_sdk_containers"} <= set(job.environment.experiments)
    assert "use_multiple_sdk_containers" not in job.environment.experiments
    # Nothing of the main module, no package: all that a worker runs is in its image.
    assert read_options(job)["save_main_session"] is False
    assert set(staged) == {"pipeline.pb", "submission_environment_dependencies.txt"}
    # Nothing is shuffled but numbers, names and counts: a job description is small whatever the data.
    assert len(staged["pipeline.pb"]) < 2**20


def test_options_of_a_config_reach_the_job(submit):
    job, _, _ = submit("extract", job_name="mine", experiments=["shuffle_mode=service"], save_main_session=True)
    assert job.name == "mine"
    assert "shuffle_mode=service" in job.environment.experiments
    assert "use_multiple_sdk_containers" in job.environment.experiments
    assert read_options(job)["save_main_session"] is True
    assert [(label.key, label.value) for label in job.labels.additionalProperties] == [("team", "birds")]
    assert str(job.environment.workerPools[0].ipConfiguration) == "WORKER_IP_PRIVATE"


def test_a_setup_file_is_staged_as_the_source_distribution(submit):
    job, _, staged = submit("extract", setup_file=str(ROOT / "setup.py"), sdk_container_image=None)
    with tarfile.open(fileobj=BytesIO(staged["workflow.tar.gz"])) as archive:
        assert any(name.endswith("/components/extract/extract.py") for name in archive.getnames())
        assert not any("test" in name for name in archive.getnames())
    (pool,) = job.environment.workerPools
    assert "workflow.tar.gz" in {package.name for package in pool.packages}
    assert re.search(r"beam_python3\.\d+_sdk:", pool.workerHarnessContainerImage)
