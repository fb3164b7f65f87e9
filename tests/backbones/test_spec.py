import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.backbones.spec import EMBEDDED, FROZEN, KERAS, Spec, parse_backbone, source_files, unknown
from components.errors import UserError


def test_a_name_a_url_a_mapping_and_a_list_are_understood(tmp_path):
    assert parse_backbone("efficientnet_lite0") == (Spec(name="efficientnet_lite0"),)
    assert parse_backbone("VGG19") == (Spec(keras="VGG19"),)
    assert parse_backbone("https://tfhub.dev/x/y/1") == (Spec(hub="https://tfhub.dev/x/y/1"),)
    assert parse_backbone({"keras": "VGG19", "weights": None, "size": 64}) == (
        Spec(keras="VGG19", weights="none", size=64),
    )
    both = parse_backbone(["inception_v3", {"hub": str(tmp_path), "scale": [-1, 1]}])
    assert both == (Spec(name="inception_v3"), Spec(hub=str(tmp_path), scale=(-1, 1)))
    assert source_files(both) == [tmp_path]


@pytest.mark.parametrize("name", [*EMBEDDED, *FROZEN, *KERAS])
def test_every_name_in_the_tables_is_a_backbone(name):
    assert parse_backbone(name)[0].title == name


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("efficentnet_lite0", "no backbone 'efficentnet_lite0'; the nearest are efficientnet_lite0"),
        ("vgg19", "the nearest are VGG19"),
        ({"keras": "VGG-19"}, "no Keras application 'VGG-19'; the nearest are VGG19"),
        ({"kears": "VGG19"}, "no key in backbone 'kears'; the nearest are keras"),
        ({"name": "inception"}, "no backbone 'inception'; the nearest are inception_v"),
        ({}, "no source: expected one of name, keras, hub, frozen_graph"),
        ({"keras": "VGG19", "hub": "x/y"}, "expected one of"),
        ({"keras": "VGG19", "size": "big"}, "backbone.size is 'big'"),
        ({"keras": "VGG19", "scale": [1, -1]}, "backbone.scale is"),
        ({"keras": "VGG19", "scale": [0, 1]}, "backbone.scale has no effect without hub or frozen_graph"),
        ({"name": "efficientnet_lite0", "weights": "none"}, "backbone.weights has no effect without keras"),
        ({"name": "inception_v3", "size": 320}, "'inception_v3' has a fixed size"),
        ({"keras": "VGG19", "pooling": "median"}, "no pooling 'median'"),
        ({"keras": "VGG19", "weights": "nowhere.h5"}, "no file 'nowhere.h5'"),
        ({"frozen_graph": __file__}, "needs backbone.input"),
        ([], "expected a name"),
        (7, "backbone is 7"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(value, words):
    with pytest.raises(UserError) as raised:
        parse_backbone(value)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(["keras", "name"]), inner),
    max_leaves=6,
)


@given(json)
def test_any_value_is_a_backbone_or_a_user_error(value):
    try:
        assert all(isinstance(spec, Spec) for spec in parse_backbone(value))
    except UserError as error:
        assert str(error)


def test_the_nearest_names_are_found_whatever_the_case():
    assert unknown("layer", "FC", ["fc1", "fc2", "pool"]).endswith("the nearest are fc2, fc1.")


def test_titles_tell_backbones_apart_that_take_different_parts_of_one_network():
    parts = [{}, {"layer": "maps"}, {"layer": "maps", "pooling": "gem"}, {"layer": "block5", "pooling": "gem"}]
    titles = [parse_backbone({"name": "efficientnet_lite0", **part})[0].title for part in parts]
    assert len(set(titles)) == len(parts)
    assert titles[2] == "efficientnet_lite0:maps:gem"
