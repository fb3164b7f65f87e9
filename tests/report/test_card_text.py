import json
from dataclasses import replace

import numpy as np
import pytest
from cards import CONTENT, EXAMPLES, FACTS, make_card, make_content
from scipy.stats import binomtest

from components.export.versions import list_versions
from components.outcomes import Audit, Work
from components.report.card_text import describe_card, find_weak_classes, list_limits, list_metrics


def limits(content=CONTENT, images=True):
    return " ".join(list_limits(content, images))


def test_a_limit_is_stated_where_the_facts_give_it_and_only_there():
    text = limits()
    assert "fewer than 10 test images: b." in text
    assert "beyond chance: b." in text
    assert "3 test images have a near-duplicate in the train or val split (audit/leaks.csv): with them" in text
    assert "accuracy is 0.7500, without them 0.6000." in text
    assert "The model never answers 'b' (4 test images): no test image of this class is recognised." in text
    assert "in two splits: 4." in text
    assert "Exact copies among the images found: 2." in text
    assert "under two classes: 1." in text
    assert "contradicts: 2." in text
    assert "no usable images: 1 of 41." in text
    examples = replace(EXAMPLES, rejected=0, duplicates=0, label_conflicts=0)
    outcomes = {"audit": Audit(Work(), 0, 0, 0, []), "examples": examples}
    clean = limits(make_content(outcomes, confusion=np.array([[12, 0], [0, 4]]), leaked=0))
    for word in (
        "beyond chance",
        "near-duplicate",
        "splits",
        "copies",
        "two classes",
        "contradicts",
        "usable",
        "never",
    ):
        assert word not in clean


def test_what_it_takes_and_when_it_abstains_follow_from_the_export():
    assert "answers one of its classes for any image" in limits()
    chosen = {"threshold": 0.75, "wanted": 0.9, "images": 40, "answered": 30, "precision": 0.95, "low": 0.8, "high": 1}
    assert "below a probability of 0.7500" in limits(make_content(facts={**FACTS, "abstention": chosen}))
    never = {**FACTS, "abstention": {**chosen, "threshold": 2.0}}
    assert "abstains always" in limits(make_content(facts=never))
    assert "takes JPEG" in limits()
    assert "takes bottlenecks of 1280 numbers" in limits(images=False)


def test_a_class_that_is_never_predicted_has_no_precision():
    (metric,) = [
        metric for metric in list_metrics(CONTENT) if (metric["type"], metric["slice"]) == ("precision", {"class": "b"})
    ]
    assert (metric["value"], metric["images"]) == (None, 0)


def confuse(hits, images):
    """Return a confusion matrix with so many images of each class recognised, the rest taken for the next class."""
    confusion = np.diag(hits)
    confusion[np.arange(len(hits)), np.roll(np.arange(len(hits)), -1)] += images - hits
    return confusion


def test_classes_that_are_equal_are_seldom_named_however_many_they_are():
    random = np.random.default_rng(0)
    named = plain = 0
    for _ in range(200):
        hits = random.binomial(30, 0.8, 257)
        named += find_weak_classes(confuse(hits, 30)).size > 0
        chances = [binomtest(int(hit), 30, hits.sum() / (30 * 257), "less").pvalue for hit in hits]
        plain += sum(chance <= 0.05 for chance in chances)
    assert named / 200 <= 0.07  # 5 %, and its chance
    assert plain / 200 > 5  # what would be named of each 257 without a correction


def test_a_class_that_is_weak_is_named_and_one_without_images_is_not():
    hits, images = np.array([27, 9, 0, *[27] * 50]), np.array([30, 30, 0, *[30] * 50])
    assert find_weak_classes(confuse(hits, images)).tolist() == [1]
    assert find_weak_classes(np.zeros((3, 3), int)).tolist() == []


def test_what_is_not_measured_is_said_to_be_so():
    assert ("precision, class b", "not measured") in describe_card(make_card())[-1].rows


def test_the_description_survives_json(toy_run):
    card = json.loads((list_versions(toy_run.exports)[-1] / "model_card.json").read_text())
    for one in (card, make_card(reasons=["loss is 9"])):
        again = json.loads(json.dumps(one))
        assert again == one
        assert describe_card(again) == describe_card(one)
    titles = [section.title for section in describe_card(card)]
    assert titles == ["Model", "Intended use", "Limits", "Data", "Test split"]


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        ({"blessed": True}, "Blessed."),
        ({"blessed": True, "reasons": ["none before"]}, "Blessed (nothing was compared): none before."),
        ({"reasons": ["loss is 9"]}, "Not blessed: loss is 9."),
        ({"gated": False, "reasons": ["no limit"]}, "Not gated: no limit."),
    ],
)
def test_the_verdict_is_a_sentence(verdict, sentence):
    assert sentence in describe_card(make_card(**verdict))[0].sentences
