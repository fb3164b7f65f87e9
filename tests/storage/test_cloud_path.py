import pickle

import pytest


def test_a_path_tells_objects_folders_and_missing_ones_apart(remote):
    (remote / "inner" / "a.txt").write_text("a")
    places = remote, remote / "inner", remote / "inner" / "a.txt", remote / "inner" / "b.txt"
    assert [place.is_dir() for place in places] == [True, True, False, False]
    assert [place.is_file() for place in places] == [False, False, True, False]
    assert [place.exists() for place in places] == [True, True, True, False]


def test_a_refused_request_does_not_mean_that_nothing_is_there(remote, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Forbidden")

    place = pickle.loads(pickle.dumps(remote / "a.txt"))
    monkeypatch.setattr(place.fs, "info", refuse)
    for ask in (place.is_dir, place.is_file):
        with pytest.raises(OSError, match="Forbidden"):
            ask()
