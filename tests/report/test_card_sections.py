import json

import pytest
from cards import make_card

from components.export.export import list_versions
from components.report.card_sections import describe_card


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
