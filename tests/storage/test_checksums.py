import json

import pytest

from components.errors import DamagedFile
from components.storage.checksums import find_unlike, read_summed_json, sum_file, write_summed_json, write_sums


def test_the_sum_is_crc_32c(tmp_path):
    (tmp_path / "file").write_bytes(b"123456789")
    assert sum_file(tmp_path / "file") == 0xE3069283  # the check value of CRC-32C in RFC 3720 and the catalogue of CRCs


def test_summed_json_is_json_and_comes_back(tmp_path):
    path, value = tmp_path / "file.json", {"a": [1, 2.5, None], "b": {"ü": "\udcff"}}
    write_summed_json(path, value)
    assert read_summed_json(path) == value
    content = json.loads(path.read_bytes())
    assert list(content) == ["crc32c", "a", "b"] and content["b"] == value["b"]


def test_summed_json_with_any_bit_flipped_is_damaged(tmp_path):
    path = tmp_path / "file.json"
    write_summed_json(path, {"accuracy": 0.91})
    healthy = path.read_bytes()
    for at in range(len(healthy)):
        for bit in range(8):
            path.write_bytes(healthy[:at] + bytes([healthy[at] ^ 1 << bit]) + healthy[at + 1 :])
            with pytest.raises(DamagedFile):
                read_summed_json(path)
    for length in range(len(healthy)):
        path.write_bytes(healthy[:length])
        with pytest.raises(DamagedFile):
            read_summed_json(path)


def test_a_file_that_is_not_as_its_folder_says_is_found(tmp_path):
    (tmp_path / "inner").mkdir()
    files = [tmp_path / "one", tmp_path / "inner" / "two"]
    for file in files:
        file.write_bytes(b"content")
    assert find_unlike(tmp_path) is None  # no sums were kept
    write_sums(tmp_path, files)
    (tmp_path / "three").touch()
    assert find_unlike(tmp_path) is None
    files[1].write_bytes(b"Content")
    assert find_unlike(tmp_path) == "inner/two"
    files[1].unlink()
    assert find_unlike(tmp_path) == "inner/two"
    (tmp_path / "checksums.json").write_text("{}")
    assert find_unlike(tmp_path) == "checksums.json"
