import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import refusal

from components.data.split_words import SPLIT_WORDS, check_evaluation, last_split_word, list_words, read_split


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train", ["train"]),
        ("01_train", ["train"]),
        ("trainImages", ["train", "images"]),
        ("TRAIN-2", ["train"]),
        ("Test Set (new)", ["test", "set", "new"]),
        ("entra\u00eenement", ["entra\u00eenement"]),
        ("12", []),
    ],
)
def test_words_are_runs_of_letters_in_lower_case(name, words):
    assert list_words(name) == words


@pytest.mark.parametrize("name", ["trainval", "train_val", "contest", "trainees", "\u00e9test", "", "7"])
def test_a_name_with_no_word_or_with_several_says_nothing(name):
    assert read_split(name) is None


AFFIX = st.text(st.sampled_from("xyz_-. 09"), max_size=5)


@given(st.sampled_from(sorted(SPLIT_WORDS)), AFFIX, AFFIX, st.sampled_from([str.lower, str.upper, str.title]))
def test_a_word_is_found_in_any_case_and_the_other_words_are_the_rest(word, before, after, change):
    read = read_split(f"{before}_{change(word)}_{after}")
    assert read == (SPLIT_WORDS[word], " ".join([*list_words(before), *list_words(after)]))


def test_the_last_word_of_a_files_name_counts():
    assert last_split_word("stress_test-train.tfrecord") == "train"
    assert last_split_word("images.tfrecord") == ""


def test_eval_beside_test_is_refused_and_beside_val_is_not():
    check_evaluation(["train", "val", "eval", ""], "x.csv")
    check_evaluation(["train", "test", "testing"], "x.csv")
    message = refusal(check_evaluation, ["train", "test", "evaluation"], "x.csv")
    assert "'evaluation'" in message and "'test'" in message and "'x.csv'" in message
