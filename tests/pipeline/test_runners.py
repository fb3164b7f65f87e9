import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toys import refusal, write_config

from components.errors import UserError
from components.run_dir import RunDir
from pipeline.cli import main, split_flags
from pipeline.load_config import load_beam, load_config
from pipeline.runners import make_options, name_job, read_flags, write_flags

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "caltech256.yaml"
LOCAL = {"name": "x", "data": {"path": "images"}}
DATAFLOW = {
    "name": "x",
    "data": {"path": "gs://bucket/images"},
    "output_dir": "gs://bucket/x",
    "beam": {
        "runner": "DataflowRunner",
        "project": "a-project",
        "region": "us-central1",
        "temp_location": "gs://bucket/tmp",
        "sdk_container_image": "registry/topgraft:1",
    },
}


@pytest.fixture
def load(tmp_path):
    def run(values, *overrides, flags=()):
        return load_config(write_config(tmp_path / "c.yaml", **values), list(overrides), flags)

    return run


def options_of(config, *job):
    return make_options(config.beam, *job).get_all_options(drop_default=True)


def test_the_local_runner_is_the_one_inside_the_process(load):
    for runner in ("DirectRunner", "directrunner", "FnApiRunner"):
        assert options_of(load(LOCAL, f"beam.runner={runner}"))["runner"] == "FnApiRunner"


def test_every_option_of_beam_is_a_key_with_its_type(load):
    beam = {
        "runner": "PortableRunner",
        "job_endpoint": "embed",
        "environment_type": "EXTERNAL",
        "environment_config": "localhost:50000",
        "direct_num_workers": 2,
        "use_public_ips": False,
        "experiments": ["a", "b=1"],
        "labels": {"team": "birds"},
        "sdk_harness_log_level_overrides": {"a.b": "DEBUG"},
        "profile_sample_rate": 0.5,
        "pipeline_type_check": False,
        "profile_cpu": False,
        "num_workers": None,
    }
    found = options_of(load({**LOCAL, "beam": beam}))
    assert found == {
        "runner": "PortableRunner",
        "job_endpoint": "embed",
        "environment_type": "EXTERNAL",
        "environment_config": "localhost:50000",
        "direct_num_workers": 2,
        "use_public_ips": False,
        "experiments": ["a", "b=1"],
        "labels": ['{"team": "birds"}'],
        "sdk_harness_log_level_overrides": {"a.b": "DEBUG"},
        "profile_sample_rate": 0.5,
        "pipeline_type_check": False,
        "save_main_session": False,
    }


def test_every_option_of_beam_that_takes_a_word_is_a_key_and_a_flag():
    from apache_beam.options.pipeline_options import PipelineOptions

    parsers = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    for action in parsers[0]._actions:
        name = action.option_strings[-1].removeprefix("--")
        if action.nargs is not None or action.type or action.choices or name in ("runner", "pubsub_root_url"):
            continue
        word = '{"a": "b"}' if "json" in str(action.help).lower() else "word"
        written = write_flags(read_flags([f"--{name}={word}"], "FnApiRunner"))
        assert PipelineOptions(written).get_all_options() == PipelineOptions([f"--{name}={word}"]).get_all_options()


@pytest.mark.parametrize("key", ["no_use_public_ips=true", "use_public_ips=false"])
def test_a_switch_can_be_set_by_either_of_its_names(load, key):
    assert options_of(load(LOCAL, f"beam.{key}"))["use_public_ips"] is False


def test_flags_go_before_keys_and_stand_in_the_config(load):
    flags = ["--runner", "PortableRunner", "--num_workers=4", "--experiments=a,b", "--no_use_public_ips"]
    config = load(LOCAL, "beam.num_workers=2", "beam.shards=3", "beam.region=r", flags=flags)
    assert config.beam.model_dump() == {
        "runner": "PortableRunner",
        "shards": 3,
        "num_workers": 4,
        "region": "r",
        "experiments": ["a", "b"],
        "use_public_ips": False,
    }
    beam = load_beam(["shards=3", "num_workers=2"], flags)
    assert (beam.runner, beam.shards, beam.options["num_workers"]) == ("PortableRunner", 3, 4)
    # Written as keys and read again, flags mean the same.
    assert options_of(load({**LOCAL, "beam": config.beam.model_dump()})) == options_of(config)


def test_a_runner_of_ones_own_brings_its_own_options(load, tmp_path, monkeypatch):
    (tmp_path / "my_runner.py").write_text(
        "from apache_beam.options.pipeline_options import PipelineOptions\n"
        "from apache_beam.runners.runner import PipelineRunner\n"
        "class MyOptions(PipelineOptions):\n"
        "    @classmethod\n"
        "    def _add_argparse_args(cls, parser):\n"
        "        parser.add_argument('--my_speed', type=int)\n"
        "class MyRunner(PipelineRunner):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = load(LOCAL, flags=["--runner=my_runner.MyRunner", "--my_speed=3"])
    assert config.beam.options == {"my_speed": 3}
    assert options_of(config)["my_speed"] == 3


def test_words_behind_two_dashes_are_beams():
    assert split_flags(["run", "c.yaml", "a=1", "--", "--x", "y"]) == (["run", "c.yaml", "a=1"], ["--x", "y"])
    assert split_flags(["run", "c.yaml"]) == (["run", "c.yaml"], [])
    assert split_flags(["classify", "--", "-x.jpg"]) == (["classify", "--", "-x.jpg"], [])


@pytest.mark.parametrize("command", ["run", "curve", "predict"])
def test_an_unknown_flag_names_the_nearest_and_is_status_2(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = (
        [str(tmp_path), str(tmp_path)] if command == "predict" else [str(write_config(tmp_path / "c.yaml", **LOCAL))]
    )
    assert main([command, *words, "--", "--machin_type=n1"]) == 2
    errors = capsys.readouterr().err
    assert "Beam has no option '--machin_type'; did you mean '--machine_type'?" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "overrides", "flags", "words"),
    [
        (LOCAL, ["beam.runer=x"], [], "Beam has no option 'beam.runer'; did you mean 'beam.runner'?"),
        (LOCAL, ["beam.shard=3"], [], "did you mean 'beam.shards'"),
        (LOCAL, ["beam.projct=x"], [], "did you mean 'beam.project'"),
        (LOCAL, ["beam.help=true"], [], "argument -h/--help: ignored explicit argument 'True'"),
        (
            LOCAL,
            ["beam.runner=DataflowRuner"],
            [],
            "Beam has no runner 'DataflowRuner'; did you mean 'DataflowRunner'?",
        ),
        (LOCAL, ["beam.runner=no.such.Runner"], [], "Cannot load the runner 'no.such.Runner' (No module named 'no')"),
        (LOCAL, ["beam.runner=json.Runner"], [], "Cannot load the runner 'json.Runner'"),
        (LOCAL, ["beam.runner=..Runner"], [], "Cannot load the runner '..Runner'"),
        (
            LOCAL,
            ["beam.runner=apache_beam.runners.dask.dask_runner.DaskRunner"],
            [],
            "runs only the last branch of a pipeline",
        ),
        (LOCAL, ["beam.num_workers=many"], [], "invalid int value: 'many'"),
        (LOCAL, ["beam.autoscaling_algorithm=x"], [], "invalid choice: 'x'"),
        (LOCAL, ["beam.streaming=maybe"], [], "argument --streaming: ignored explicit argument 'maybe'"),
        (LOCAL, ["beam.environment_type=EXTERNAL"], [], "external_service_address is required"),
        (LOCAL, ["beam.no_wait_until_finish=true"], [], "'beam.no_wait_until_finish' is set, but each stage needs"),
        (LOCAL, ["beam.template_location=gs://b/t"], [], "'beam.template_location' is set"),
        (LOCAL, [], ["--num_workers"], "expected one argument"),
        (LOCAL, [], ["--num_workers=x"], "invalid int value: 'x'"),
        (LOCAL, [], ["epochs=3"], "Beam has no option '--epochs'"),
        (LOCAL, [], ["--runner=DataflowRuner"], "did you mean 'DataflowRunner'"),
        (DATAFLOW, ["beam.project=null"], [], "'beam.project' is missing, but DataflowRunner needs it"),
        (DATAFLOW, ["beam.region=null"], [], "'beam.region' is missing"),
        (DATAFLOW, ["beam.temp_location=null"], [], "'beam.temp_location' is missing"),
        (DATAFLOW, ["beam.temp_location=/tmp"], [], "Invalid GCS path (/tmp), given for the option: temp_location"),
        (DATAFLOW, ["beam.staging_location=s"], [], "Invalid GCS path (s), given for the option: staging_location"),
        (DATAFLOW, ["beam.sdk_container_image=null"], [], "'beam.sdk_container_image' is missing: set it to an image"),
        (DATAFLOW, ["beam.setup_file=setup.cfg"], [], "'beam.setup_file' is 'setup.cfg', which is no setup.py"),
        (DATAFLOW, ["beam.job_name=My job"], [], "Invalid job_name (My job)"),
        (
            DATAFLOW,
            ["beam.num_workers=3"],
            ["--max_num_workers=2"],
            "num_workers (3) cannot exceed max_num_workers (2)",
        ),
        (
            DATAFLOW,
            ["data.path=images"],
            [],
            "'data.path' is 'images', which Dataflow's workers cannot read on this machine",
        ),
        (DATAFLOW, ["data.path=['gs://b/a', b.csv]"], [], "'data.path' is 'b.csv'"),
        (DATAFLOW, ["data={source: digits}"], [], "'data.source' is digits, which is downloaded to this machine"),
        (DATAFLOW, ["output_dir=runs/x"], [], "'output_dir' is 'runs/x'"),
        (DATAFLOW, ["output_dir=''"], [], "'output_dir' is 'runs/x'"),
        (
            DATAFLOW,
            ["backbone={bottlenecks: tests, name: efficientnet_lite0}"],
            [],
            "'backbone.bottlenecks' is 'tests'",
        ),
        (LOCAL, [], ["--runner=dataflow"], "'beam.project' is missing"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(load, monkeypatch, values, overrides, flags, words):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as raised:
        load(values, *overrides, flags=flags)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_predict_on_dataflow_takes_no_local_path(tmp_path, capsys):
    flags = [f"--{key}={value}" for key, value in DATAFLOW["beam"].items()]
    output = str(tmp_path / "out.csv")
    assert main(["predict", "gs://b/export/1", str(tmp_path), "--output", output, "--", *flags]) == 2
    assert f"'PATH' is '{tmp_path}', which Dataflow's workers cannot read on this machine" in capsys.readouterr().err
    assert main(["predict", "gs://b/export/1", "gs://b/images", "--output", output, "--", *flags]) == 2
    assert f"'--output' is '{output}'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_dataflow_gets_what_topgraft_knows_better(load, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = options_of(load(DATAFLOW), "Vögel & Co", "extract")
    assert found["job_name"] == "topgraft-vogel-co-extract"
    assert found["save_main_session"] is False
    assert found["experiments"] == ["no_use_multiple_sdk_containers"]
    said = ["beam.job_name=mine", "beam.save_main_session=true", "beam.experiments=[a]", "beam.setup_file=setup.py"]
    found = options_of(load(DATAFLOW, *said), "x", "extract")
    assert (found["job_name"], found["save_main_session"], found["experiments"]) == ("mine", True, ["a"])
    assert found["setup_file"] == "setup.py"


@pytest.mark.parametrize("name", ["x", "Vögel_2", "鳥", "-", "9 lives", "a" * 300])
def test_any_name_of_a_run_makes_a_job_name(name):
    # https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.jobs: the field name of a job
    assert re.fullmatch("[a-z]([-a-z0-9]{0,1022}[a-z0-9])?", name_job(f"{name}-extract"))


def test_a_config_for_this_machine_is_read_without_beam(tmp_path):
    plain, other = (tmp_path / name for name in ("plain.yaml", "other.yaml"))
    write_config(plain, **LOCAL, beam={"shards": 4, "runner": "DirectRunner"})
    write_config(other, **LOCAL, beam={"direct_num_workers": 2})
    code = (
        "import sys; from pathlib import Path; from pipeline.load_config import load_config; "
        "load_config(Path(sys.argv[1]), []); print('apache_beam' in sys.modules, 'tensorflow' in sys.modules)"
    )
    for path, found in ((plain, "False False"), (other, "True False")):
        command = [sys.executable, "-W", "ignore", "-c", code, str(path)]
        assert subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip() == found


def test_where_beam_runs_is_no_reason_to_run_a_stage_again(toy_run, toy_config, tmp_path):
    beam = {**toy_config["beam"], "direct_num_workers": 2, "direct_running_mode": "multi_processing", "region": "x"}
    config = write_config(tmp_path / "c.yaml", **{**toy_config, "beam": beam})
    assert main(["run", str(config), "--", "--machine_type=y"]) == 0
    stages = json.loads(RunDir(toy_run.root).record.read_text())["stages"]
    assert all(stage["skipped"] for stage in stages.values())


def test_caltech256_is_a_job_for_dataflow_and_for_this_machine():
    config = load_config(CONFIG, [])
    assert options_of(config, config.name, "ingest")["job_name"] == "topgraft-caltech256-ingest"
    here = ["beam.runner=DirectRunner", "output_dir=runs/caltech256", "data.path=null"]
    assert " ".join(here) in CONFIG.read_text()
    local = load_config(CONFIG, here)
    assert options_of(local)["runner"] == "FnApiRunner"
    assert (local.data.path, str(local.run_folder)) == (None, "runs/caltech256")


def test_the_image_has_the_lock_of_the_machine_that_starts_the_run():
    lines = (ROOT / "configs" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    (base,) = [rest for word, rest in steps if word == "FROM"]
    lock = (ROOT / "constraints.txt").read_text()
    (version,) = re.findall(r"^apache-beam==(\S+)$", lock, re.M)
    assert base == f"apache/beam_python3.11_sdk:{version}"
    assert steps[-1] == ["ENTRYPOINT", '["/opt/apache/beam/boot"]']
    copied = [name for word, rest in steps if word == "COPY" for name in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert {"constraints.txt", "setup.py", "setup.cfg", "MANIFEST.in", "pipeline", "components"} <= set(copied)
    installs = [rest for word, rest in steps if word == "RUN"]
    assert all("pip install" in rest and "--no-deps" in rest for rest in installs)
    # An image is named in the config as the Dockerfile says to name it.
    image = yaml.safe_load(CONFIG.read_text())["beam"]["sdk_container_image"]
    assert f"-t {image} ." in (ROOT / "configs" / "Dockerfile").read_text()


def test_the_message_of_a_runner_is_a_sentence():
    assert "FnApiRunner" in refusal(make_options, load_beam(["runner=FnApiRuner"]))
