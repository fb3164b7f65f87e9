import pytest

from components.data.tf_examples import find_offsets
from components.errors import DamagedShard
from components.features import ENCODED, KEY, SPLITS
from components.shards.image_sample import MAX_SAMPLED_SHARDS, sample_images
from components.shards.names import Shard, shard_name
from components.shards.records import bytes_feature, serialize_record, writing_shards
from components.shards.spans import assign_shard, list_shards

CLASSES, PER_CLASS = 40, 30


def write_examples(folder, shards):
    """Write shards as ingest does: an image lies in the shard of its key's hash, each sorted by key."""
    keys = [f"{label:02d}/{number:03d}" for label in range(CLASSES) for number in range(PER_CLASS)]
    for shard in list_shards(shards):
        own = [key for key in keys if shard.of == 1 or assign_shard(key, shard.of) == shard.number]
        with writing_shards(folder, shard) as write:
            for place, key in enumerate(own):
                record = {KEY: bytes_feature(key.encode()), ENCODED: bytes_feature(b"image " + key.encode())}
                write[SPLITS[place % 3]](serialize_record(record))
    return keys


@pytest.mark.parametrize("shards", [[1], [4], [16], [1, 1, 4]])
def test_a_sample_is_spread_over_all_classes_and_splits(tmp_path, shards):
    write_examples(tmp_path, shards)
    sample = sample_images(tmp_path, SPLITS, shards, 288)
    assert len(sample) == len({image.key for image in sample}) or len(shards) > 1
    assert len(sample) == 288
    assert {image.key.split("/")[0] for image in sample} == {f"{label:02d}" for label in range(CLASSES)}
    assert all(image.encoded == b"image " + image.key.encode() for image in sample)
    assert sample == sample_images(tmp_path, SPLITS, shards, 288)


def test_of_few_images_all_are_taken_and_of_one_split_no_other(tmp_path):
    keys = write_examples(tmp_path, [2])
    assert sorted(image.key for image in sample_images(tmp_path, SPLITS, [2], 10**6)) == keys
    of_test = {image.key for image in sample_images(tmp_path, ["test"], [2], 50)}
    others = {image.key for image in sample_images(tmp_path, ["train", "val"], [2], 10**6)}
    assert len(of_test) == 50 and not of_test & others


def test_of_many_shards_a_few_are_opened_from_the_first_to_the_last_part(tmp_path, monkeypatch):
    write_examples(tmp_path, [32])
    opened = []
    monkeypatch.setattr(
        "components.shards.image_sample.find_offsets", lambda path: opened.append(path.name) or find_offsets(path)
    )
    sample_images(tmp_path, ["val"], [32], 100)
    assert opened == [shard_name("val", Shard(number, 32)) for number in range(0, 32, 32 // MAX_SAMPLED_SHARDS)]


def test_records_between_are_not_read_and_damage_in_one_that_is_names_the_file(tmp_path):
    write_examples(tmp_path, [1])
    file = tmp_path / shard_name("test", Shard(0, 1))
    offsets, content = find_offsets(file), bytearray(file.read_bytes())
    sample = sample_images(tmp_path, ["test"], [1], 3)
    content[offsets[1] + 20] ^= 1
    file.write_bytes(content)
    assert sample_images(tmp_path, ["test"], [1], 3) == sample
    content[offsets[-1] + 20] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedShard, match=file.name):
        sample_images(tmp_path, ["test"], [1], 3)
    file.unlink()
    with pytest.raises(DamagedShard, match=file.name):
        sample_images(tmp_path, ["test"], [1], 3)


def test_a_damaged_length_ends_in_a_sentence_too(tmp_path):
    write_examples(tmp_path, [1])
    file = tmp_path / shard_name("test", Shard(0, 1))
    content = bytearray(file.read_bytes())
    content[:8] = b"\xff" * 8
    file.write_bytes(content)
    with pytest.raises(DamagedShard, match=file.name):
        sample_images(tmp_path, ["test"], [1], 3)
