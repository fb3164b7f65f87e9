from components.storage.checksums import compute_checksum, find_mismatch, write_checksums


def test_the_checksum_is_crc_32c(tmp_path):
    (tmp_path / "file").write_bytes(b"123456789")
    assert (
        compute_checksum(tmp_path / "file") == 0xE3069283
    )  # the check value of CRC-32C in RFC 3720 and the catalogue of CRCs


def test_a_file_that_is_not_as_its_folder_says_is_found(tmp_path):
    (tmp_path / "inner").mkdir()
    files = [tmp_path / "one", tmp_path / "inner" / "two"]
    for file in files:
        file.write_bytes(b"content")
    assert find_mismatch(tmp_path) is None  # no checksums exist
    write_checksums(tmp_path, files)
    (tmp_path / "three").touch()
    assert find_mismatch(tmp_path) is None
    files[1].write_bytes(b"Content")
    assert find_mismatch(tmp_path) == "inner/two"
    files[1].unlink()
    assert find_mismatch(tmp_path) == "inner/two"
    (tmp_path / "checksums.json").write_text("{")
    assert find_mismatch(tmp_path) == "checksums.json"


def test_the_checksums_of_earlier_versions_which_held_their_own_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"123456789")
    (tmp_path / "checksums.json").write_text('{"crc32c": 1, "file": 3808858755}')
    assert find_mismatch(tmp_path) is None
