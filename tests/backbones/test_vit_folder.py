"""Folders of published weights that are damaged, of another model, or hostile; sharded files; preprocessing."""

import io
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from toys import quiet_progress, refusal, shared_data

from components.backbones.prepare import BackboneSession, prepare_backbone
from components.backbones.spec import parse_backbone
from components.backbones.vit_folder import read_preprocessing
from pipeline.cli import main

FOLDERS = Path(__file__).with_name("vit")
NORM = "encoder.layer.1.norm1.weight"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FOLDERS / "dinov2", tmp_path / "dinov2"))


def prepare(value, folder):
    backbone = prepare_backbone(parse_backbone(value), folder, quiet_progress())
    return backbone, BackboneSession(folder / backbone.id)


def change_json(folder, name="config.json", **values):
    old = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**old, **values}))


def change_weights(folder, change):
    import ml_dtypes  # noqa: F401

    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def write_header(folder, header, length=None, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length or len(encoded)) + encoded + data)


def cut(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def huge_tensor(folder):
    write_header(folder, {NORM: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})


DAMAGED = {
    "cut file": (cut, "Cannot read .*get the file again"),
    "empty file": (lambda f: (f / "model.safetensors").write_bytes(b""), "Cannot read"),
    "header longer than the file": (lambda f: write_header(f, b"{}", 2**62), "Cannot read"),
    "header of one gigabyte": (lambda f: write_header(f, b"{}", 2**30), "Cannot read"),
    "header that is no JSON": (lambda f: write_header(f, b"\xff" * 64), "Cannot read"),
    "header of a tensor of terabytes": (huge_tensor, "Cannot read"),
    "header with nested lists": (lambda f: write_header(f, b"[" * 100_000), "Cannot read"),
    "missing tensor": (lambda f: change_weights(f, lambda t: t.pop(NORM)), f"has no tensor '{NORM}'"),
    "missing position": (
        lambda f: change_weights(f, lambda t: t.pop("embeddings.position_embeddings")),
        "has no tensor 'embeddings.position_embeddings'",
    ),
    "wrong shape": (
        lambda f: change_weights(f, lambda t: t.update({NORM: np.ones(31, np.float32)})),
        rf"'{NORM}' .* is F32 \[31\]: expected .* \[32\]",
    ),
    "wrong rank": (
        lambda f: change_weights(f, lambda t: t.update({NORM: np.ones((1, 32), np.float32)})),
        rf"'{NORM}' .* is F32 \[1, 32\]: expected .* \[32\]",
    ),
    "other type": (
        lambda f: change_weights(f, lambda t: t.update({NORM: np.ones(32, np.int8)})),
        rf"'{NORM}' .* is I8 \[32\]: expected F32, F16, BF16",
    ),
    "no numbers": (
        lambda f: change_weights(f, lambda t: t.update({NORM: np.full(32, np.nan, np.float32)})),
        f"'{NORM}' .*not finite",
    ),
    "another block": (
        lambda f: change_weights(f, lambda t: t.update({NORM.replace("1", "2", 1): np.ones(32, np.float32)})),
        "has the tensor 'encoder.layer.2.norm1.weight', which the network of its config.json does not have",
    ),
    "more blocks in config": (lambda f: change_json(f, num_hidden_layers=9), "has no tensor 'encoder.layer.2"),
    "other family": (
        lambda f: change_json(f, model_type="swin"),
        "model_type 'swin': expected one of vit, deit, clip, siglip, dinov2, dinov2_with_registers",
    ),
    "weights of another family": (lambda f: change_json(f, model_type="clip"), "has no tensor 'embeddings.patch_emb"),
    "other activation": (lambda f: change_json(f, hidden_act="relu"), "has hidden_act 'relu'"),
    "width that is text": (lambda f: change_json(f, hidden_size="32"), "has hidden_size '32'"),
    "heads that do not fit": (lambda f: change_json(f, num_attention_heads=5), "has num_attention_heads 5"),
    "gated hidden layer": (lambda f: change_json(f, use_swiglu_ffn=True), "has use_swiglu_ffn True"),
    "config that is no JSON": (lambda f: (f / "config.json").write_text("{"), "no config.json with a JSON object"),
    "config of nested lists": (lambda f: (f / "config.json").write_text("[" * 10**5), "no config.json with a JSON"),
    "index that is no map": (
        lambda f: (
            (f / "model.safetensors").rename(f / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
        ),
        "has no tensor 'embeddings.patch_embeddings.projection.weight'",
    ),
    "longest edge": (
        lambda f: change_json(f, "preprocessor_config.json", size={"shortest_edge": 24, "longest_edge": 30}),
        "has size {'shortest_edge': 24, 'longest_edge': 30}",
    ),
    "resample that is a list": (
        lambda f: change_json(f, "preprocessor_config.json", resample=[3]),
        r"has resample \[3\]",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "Cannot read .*model.safetensors"),
    "no preprocessing": (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
    "deviation of zero": (
        lambda f: change_json(f, "preprocessor_config.json", image_std=[0.5, 0, 0.5]),
        r"has image_std \[0.5, 0, 0.5\]",
    ),
    "crop beyond the resize": (
        lambda f: change_json(f, "preprocessor_config.json", crop_size=400),
        "has crop_size 400",
    ),
    "unknown step": (lambda f: change_json(f, "preprocessor_config.json", do_pad=True), "has do_pad True"),
    "unknown processor": (
        lambda f: change_json(f, "preprocessor_config.json", image_processor_type="BlipImageProcessor"),
        "has image_processor_type 'BlipImageProcessor'",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_folder_is_refused_in_one_sentence(name, folder, tmp_path):
    damage, expected = DAMAGED[name]
    damage(folder)
    message = refusal(prepare, {"vit": str(folder)}, tmp_path / "made")
    assert re.search(expected, message), message


def test_the_command_line_shows_a_folder_and_exits_with_2_for_a_damaged_one(folder, capsys):
    assert main(["backbones", "show", str(folder)]) == 0
    output, error = capsys.readouterr()
    assert "input 24x24 pixels, bottleneck 64 wide" in output
    assert "tensors that are left out: embeddings.mask_token." in error
    cut(folder)
    assert main(["backbones", "fetch", str(folder)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_hostile_header_takes_no_memory_beyond_the_size_of_the_file(folder):
    huge_tensor(folder)
    program = f"""
import resource
from pathlib import Path
from components.backbones.vit_folder import Weights
from components.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Weights(Path({str(folder)!r}), "x")
except UserError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 5_000  # KiB


def test_sharded_files_give_the_same_network(folder, tmp_path):
    whole, _ = prepare({"vit": str(folder)}, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-0000{1 + names.index(name) % 2}-of-00002.safetensors" for name in names}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / "model.safetensors").unlink()
    sharded, _ = prepare({"vit": str(folder)}, tmp_path)
    assert sharded.id == whole.id
    (folder / file).unlink()
    assert f"Cannot read '{folder}/{file}'" in refusal(prepare, {"vit": str(folder)}, tmp_path)


def test_the_layer_of_the_config_is_taken_and_an_absent_one_refused(folder, tmp_path):
    assert prepare({"vit": str(folder), "layer": "class"}, tmp_path)[0].dim == 32
    assert "has no layer 'pooled': expected one of class, mean, class+mean" in refusal(
        prepare, {"vit": str(folder), "layer": "pooled"}, tmp_path
    )
    siglip = str(FOLDERS / "siglip")
    assert "expected one of mean, pooled" in refusal(prepare, {"vit": siglip, "layer": "class"}, tmp_path)
    assert "class, mean, class+mean, pooled" in refusal(parse_backbone, {"vit": siglip, "layer": "block3"})


def resize_with_pillow(image, edge, is_square, size, resample):
    """The published preprocessing in Pillow: an independent computation."""
    short = min(image.size)
    sides = [edge, edge] if is_square else [int(edge * side / short) for side in image.size]
    resized = np.asarray(image.resize(sides, resample), np.float32)
    top, left = (sides[1] - size) // 2, (sides[0] - size) // 2
    return resized[top : top + size, left : left + size]


PUBLISHED = {  # edge, is_square, resample, mean
    "vit": (24, True, Image.Resampling.BILINEAR, [0.5] * 3),
    "deit": (28, True, Image.Resampling.BICUBIC, [0.5] * 3),
    "clip": (24, False, Image.Resampling.BICUBIC, [0.48145466, 0.4578275, 0.40821073]),
    "siglip": (24, True, Image.Resampling.BICUBIC, [0.5] * 3),
    "dinov2": (28, False, Image.Resampling.BICUBIC, [0.48145466, 0.4578275, 0.40821073]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_pixels_are_those_of_pillow_with_the_published_resize_crop_and_scale(name, tmp_path):
    edge, is_square, resample, mean = PUBLISHED[name]
    deviation = [0.5] * 3 if mean[0] == 0.5 else [0.26862954, 0.26130258, 0.27577711]
    _, session = prepare(str(FOLDERS / name), tmp_path)
    random = np.random.default_rng(0)
    for width, height in ((90, 41), (33, 57), (20, 20)):
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        whole = np.array([[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]], np.float32)
        (pixels,) = session.decode([buffer.getvalue()], whole)
        expected = resize_with_pillow(image, edge, is_square, 24, resample)
        found = (pixels * np.float32(deviation) + np.float32(mean)) * 255
        assert np.abs(found[0] - expected).mean() < 1
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        expected = resize_with_pillow(mirrored, edge, is_square, 24, resample)
        assert np.abs(found[1] - expected).mean() < 1


def test_another_size_scales_resize_and_crop(tmp_path):
    shape = read_preprocessing(FOLDERS / "dinov2", "x", "dinov2", 48)
    assert (shape["resize"].edge, shape["size"]) == (56, 48)
    backbone, _ = prepare({"vit": str(FOLDERS / "dinov2"), "size": 48}, tmp_path)
    assert backbone.size == 48
    assert "expected at least the patches of" in refusal(
        prepare, {"vit": str(write_large_patches(tmp_path)), "size": 8}, tmp_path
    )


def write_large_patches(folder):
    copy = Path(shutil.copytree(FOLDERS / "dinov2", folder / "large"))
    change_json(copy, patch_size=12)
    return copy


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": 224, "feature_extractor_type": "ViTFeatureExtractor"}, ("triangle", 224, True, 224)),
        (
            {"size": 256, "crop_size": 224, "feature_extractor_type": "DeiTFeatureExtractor"},
            ("keyscubic", 256, True, 224),
        ),
        (
            {"size": 224, "crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor"},
            ("keyscubic", 224, False, 224),
        ),
        (
            {"size": {"height": 384, "width": 384}, "image_processor_type": "SiglipImageProcessor"},
            ("keyscubic", 384, True, 384),
        ),
    ],
)
def test_older_files_of_preprocessing_have_the_defaults_of_their_processor(values, expected, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | values)
    )
    found = read_preprocessing(tmp_path, "x", "vit", None)
    assert (*found["resize"], found["size"]) == expected
    np.testing.assert_allclose(found["shift"], [127.5] * 3)
    np.testing.assert_allclose(found["divisor"], [127.5] * 3)


def test_100_photos_differ_from_pillow_by_less_than_one_of_255(tmp_path):
    files = sorted(shared_data("flowers_sample").rglob("*.jpg"))[::5][:100]
    copy = Path(shutil.copytree(FOLDERS / "dinov2", tmp_path / "copy"))
    change_json(copy, "preprocessor_config.json", size={"shortest_edge": 256}, crop_size=224)
    _, session = prepare(str(copy), tmp_path)
    differences = []
    for file in files:
        (pixels,) = session.decode([file.read_bytes()], np.array([[0, 0, 1, 1, 0]], np.float32))
        found = (pixels[0] * np.float32([0.26862954, 0.26130258, 0.27577711]) + PUBLISHED["dinov2"][3]) * 255
        expected = resize_with_pillow(Image.open(file).convert("RGB"), 256, False, 224, Image.Resampling.BICUBIC)
        differences.append(np.abs(found - expected).mean())
    assert len(files) == 100
    assert np.mean(differences) <= 1
