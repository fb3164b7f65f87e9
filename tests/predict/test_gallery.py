import base64
import html
import json
import re

import numpy as np
import pytest
from toys import encode_noise

from components.predict import gallery
from components.predict.gallery import write_gallery
from components.predict.predict import Answer, Classifier

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / '"><b>&.png'
    path.write_bytes(encode_noise(1)[0])
    return str(path)


def classifier(*labels, abstains=False):
    return Classifier(labels, lambda encoded: [], abstains)


def answer(*probabilities, abstained=None):
    return Answer(np.array(probabilities, np.float32), abstained)


def body(page):
    text = page.read_text()
    return text[text.index("<body>") :]


def test_names_and_paths_are_escaped(tmp_path, picture):
    outcomes = [(picture, answer(0.75, 0.25)), ("<i>.png", "starts with <x>")]
    write_gallery(tmp_path / "out.html", outcomes, classifier(SCRIPT, "b"), 2)
    text = body(tmp_path / "out.html")
    assert set(re.findall(r"<(script|i|x|b)>", text)) == {"b"}  # of the tiles
    assert picture not in text
    assert text.count(html.escape(SCRIPT)) == 2
    assert text.count(html.escape(picture).replace("&quot;", "&#34;")) == 3
    assert "starts with &lt;x&gt;" in text


def test_the_page_is_self_contained_with_a_bar_for_each_of_the_top(tmp_path, picture):
    write_gallery(tmp_path / "out.html", [(picture, answer(0.25, 0.05, 0.7))], classifier("a", "b", "c"), 2)
    text = (tmp_path / "out.html").read_text()
    assert not re.search(r"(src|href)=(?!.data:)|url\(|@import|<script", text)
    assert text.count("data:image/jpeg;base64,") == 1
    assert re.findall(r'"width: ([0-9.]+)%"', text) == ["70.0", "25.0"]
    assert re.findall(r"<span>([abc])</span>", text) == ["c", "a"]
    assert "abstained" not in text


def test_cards_follow_the_input_and_the_page_says_when_only_the_first_are_shown(tmp_path, picture, monkeypatch):
    outcomes = [(f"{number}.png", answer(number % 2, 1 - number % 2)) for number in range(5)]
    write_gallery(tmp_path / "all.html", outcomes, classifier("a", "b"), 1)
    text = body(tmp_path / "all.html")
    assert re.findall(r"(\d)\.png", text) == list("01234")
    assert "are shown" not in text
    monkeypatch.setattr(gallery, "CARDS_SHOWN", 3)
    write_gallery(tmp_path / "some.html", outcomes, classifier("a", "b"), 1)
    text = body(tmp_path / "some.html")
    assert re.findall(r"(\d)\.png", text) == list("012")
    assert "the first 3 of 5 images are shown" in text
    assert re.findall(r"<td>(\w)</td><td>(\d)</td>", text) == [("b", "3"), ("a", "2")]


def test_unreadable_files_beyond_a_number_are_counted_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "UNREADABLE_SHOWN", 2)
    outcomes = [(f"{number}.png", "empty") for number in range(3)]
    write_gallery(tmp_path / "out.html", outcomes, classifier("a", "b"), 1)
    text = body(tmp_path / "out.html")
    assert "The first 2 of 3 files are listed." in text
    assert "1.png" in text and "2.png" not in text


def test_evidence_stands_beside_its_picture_and_without_any_the_page_says_why(tmp_path, picture):
    evidence = np.array([[[1.0, -1.0, 0.0], [0.5, 0.0, 0.0]]], np.float32)
    explained = [(picture, answer(0.9, 0.1)._replace(evidence=evidence))]
    write_gallery(tmp_path / "out.html", explained, classifier("a", "b")._replace(note="It is exact."), 1)
    text = (tmp_path / "out.html").read_text()
    (found,) = re.findall(r'data-evidence="([^"]*)"', text)
    found = json.loads(html.unescape(found))
    assert found["width"] == 3 and [*base64.b64decode(*found["maps"])] == [255, 1, 128, 192, 128, 128]
    assert "It is exact." in text and 'id="where"' in text
    write_gallery(tmp_path / "none.html", [(picture, answer(0.9, 0.1))], classifier("a", "b"), 1)
    text = (tmp_path / "none.html").read_text()
    assert "evidence at each place is not known" in text and "<script" not in text and 'id="where"' not in text


def test_an_abstention_is_shown_and_counted_apart(tmp_path, picture):
    outcomes = [(picture, answer(0.5, 0.4, abstained=True)), (picture, answer(0.9, 0.1, abstained=False))]
    write_gallery(tmp_path / "out.html", outcomes, classifier("a", "b", abstains=True), 1)
    text = body(tmp_path / "out.html")
    assert re.findall(r"<td>(\w)</td><td>(\d)</td><td>(\d)</td>", text) == [("a", "1", "1")]
    first, second = text.split("<figure")[1:]
    assert ">abstained<" in first and "abstained" not in second


def test_an_image_that_pillow_does_not_read_or_that_vanished_has_a_card_without_picture(tmp_path):
    write_gallery(tmp_path / "out.html", [(str(tmp_path / "gone.png"), answer(1, 0))], classifier("a", "b"), 1)
    assert "no picture" in body(tmp_path / "out.html")
