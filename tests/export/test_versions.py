from pathlib import Path

import pytest
from toys import fill, refusal

from components.export.versions import find_export, list_versions
from components.storage.files import PARTIAL


def lay_versions(exports, **versions):
    """Make empty exports of these names, each blessed or not."""
    for name, blessed in versions.items():
        fill(exports, f"{name.strip('v')}/saved_model.pb", *([f"{name.strip('v')}/BLESSED"] if blessed else []))
    return exports


@pytest.mark.parametrize(
    ("versions", "meant", "words"),
    [
        ({"v9": True, "v10": True}, "10", ""),
        (
            {"v9": True, "v10": True, "v11": False},
            "10",
            "version 11 is not blessed: 10, the newest blessed one, is taken.",
        ),
        ({"v9": False, "v10": False}, "10", "no version is blessed: 10, the newest, is taken."),
    ],
    ids=["newest", "an older one", "none"],
)
def test_a_run_and_its_export_folder_mean_the_newest_blessed_version(versions, meant, words, tmp_path, capsys):
    exports = lay_versions(tmp_path / "export", **versions)
    for place in (tmp_path, exports):
        assert find_export(place) == exports / meant
        error = capsys.readouterr().err
        assert error == (f"topgraft: in '{exports}' {words}\n" if words else "")


def test_a_version_folder_means_itself_blessed_or_not(tmp_path, capsys):
    exports = lay_versions(tmp_path / "export", v9=False, v10=True)
    assert find_export(exports / "9") == exports / "9"
    assert find_export(lay_versions(tmp_path / "copied", v7=True)) == tmp_path / "copied" / "7"
    assert capsys.readouterr().err == ""


def test_a_place_without_an_export_is_refused_with_what_it_could_be(tmp_path):
    assert f"'{tmp_path}' holds no exported model: give the directory of a finished run" in refusal(
        find_export, tmp_path
    )
    assert "does not exist" in refusal(find_export, tmp_path / "gone")
    assert "holds no exported model" in refusal(find_export, Path(fill(tmp_path, "file")) / "file")


def test_versions_are_ordered_by_number(tmp_path):
    for name in ("9", "10", f"11{PARTIAL}", "12", "notes"):
        (tmp_path / name).mkdir()
    for name in ("9", "10", f"11{PARTIAL}"):  # of 12 the upload has not come to its end
        (tmp_path / name / "saved_model.pb").touch()
    assert [folder.name for folder in list_versions(tmp_path)] == ["9", "10"]
