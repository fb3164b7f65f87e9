import json
import re
import shutil

import pytest
from compared import draw_answers, write_export

from components.compare.compare import compare_exports
from components.compare.page import SHOWN, describe_change, write_difference_page
from components.compare.predictions import COLUMNS, TEST_PREDICTIONS, read_answers
from components.export.versions import list_versions
from components.storage.tables import write_csv
from pipeline.cli import main


@pytest.fixture(scope="module")
def pair(toy_run, tmp_path_factory):
    """The toy run's export, and one beside it that answers cyan to every image."""
    root = tmp_path_factory.mktemp("compare") / "run"
    shutil.copytree(toy_run.root, root)
    (export,) = list_versions(root / "export")
    other = root / "export" / "9999999999"
    shutil.copytree(export, other)
    answers = read_answers(export / TEST_PREDICTIONS).assign(label="cyan")
    write_csv(other / TEST_PREDICTIONS, COLUMNS, answers.to_numpy().tolist())
    (other / "BLESSED").unlink()
    return export, other


def test_the_command_prints_the_result_and_writes_a_page_with_pictures(pair, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["compare", *map(str, pair), "--output", str(page)]) == 0
    difference = compare_exports(*pair)
    assert difference.lost and difference.gained
    output = capsys.readouterr().out
    assert describe_change(difference) in output and str(page) in output
    assert re.search(r"magenta +12 +[01]\.\d{3} +0\.000 +0 +\d+", output)
    html = page.read_text()
    assert describe_change(difference).replace("'", "&#39;") in html
    shown = re.findall(r'<img src="data:image/jpeg;base64,[^"]+" alt="([^"]+)"', html)
    assert shown == [image["second_path"] for image in difference.lost[:SHOWN] + difference.gained[:SHOWN]]
    assert not re.search(r"(src|href)=[\"']?https?:", html)


def test_json_has_every_image_and_class(pair, capsys):
    capsys.readouterr()
    assert main(["compare", *map(str, pair), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    difference = compare_exports(*pair)
    assert document["lost"] == difference.lost and document["classes"] == difference.classes
    assert {image["second_label"] for image in document["lost"]} == {"cyan"}
    assert document["p_value"] == difference.p_value and document["difference"] == difference.difference
    assert (document["first"]["export"], document["page"]) == (str(pair[0]), None)


def test_without_a_run_directory_the_page_has_no_pictures_and_says_so(tmp_path):
    left = write_export(tmp_path / "1", draw_answers(0.5))
    hostile = [row._replace(label="<img src=x onerror=alert(1)>") for row in draw_answers(0.5)]
    right = write_export(tmp_path / "2", hostile)
    write_difference_page(compare_exports(left, right), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    body = page[page.index("<body>") :]
    assert "the page has no picture of it" in body and "<img" not in body and "&lt;img src=x" in body
    assert f"{SHOWN} of 1" in body


def test_pictures_come_from_the_first_run_where_the_second_has_no_images(pair, tmp_path):
    alone = tmp_path / "9"
    shutil.copytree(pair[1], alone)
    write_difference_page(compare_exports(pair[0], alone), tmp_path / "page.html")
    assert "data:image/jpeg;base64," in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere", "{export}"], "'nowhere' does not exist: give the directory"),
        (["{export}", "{export}", "--output", "page.pdf"], "expected a name that ends in .html"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(pair, capsys, words, expected):
    assert main(["compare", *(word.format(export=pair[0]) for word in words)]) == 2
    error = capsys.readouterr().err
    assert expected in error and len(error.splitlines()) == 1
