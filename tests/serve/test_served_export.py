import json
import shutil

import pytest
from toys import refusal

from components.export.export import list_versions
from components.serve.served_export import find_version, load_served, name_model


def test_a_folder_of_versions_means_the_newest_and_a_version_itself(toy_run, tmp_path):
    version = list_versions(toy_run.exports)[-1]
    assert find_version(toy_run.exports) == find_version(version) == version
    for name in ("9", "10", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    assert find_version(tmp_path) == tmp_path / "10"


def test_the_name_is_the_runs_or_that_of_the_folder(toy_run, tmp_path):
    assert name_model(list_versions(toy_run.exports)[-1]) == "toy"
    assert name_model(tmp_path / "birds" / "export" / "3") == "birds"
    assert name_model(tmp_path / "models" / "birds" / "3") == "birds"


@pytest.mark.parametrize("name", ["a/b", "a:b", "a b"])
def test_a_name_that_is_no_part_of_an_address_is_refused(toy_run, name):
    assert "--name" in refusal(load_served, toy_run.exports, name)


def test_an_export_that_is_missing_is_refused(tmp_path):
    assert "holds no export" in refusal(load_served, tmp_path / "gone", None)


def test_a_copy_of_a_version_elsewhere_is_served_under_its_folders_name(toy_run, tmp_path):
    version = list_versions(toy_run.exports)[-1]
    copy = shutil.copytree(version, tmp_path / "birds" / "7")
    served = load_served(copy.parent, None)
    assert (served.name, served.version, list(served.classifier.labels)) == (
        "birds",
        "7",
        json.loads((version / "model_card.json").read_text())["classes"],
    )
