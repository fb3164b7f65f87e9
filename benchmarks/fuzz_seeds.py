"""What fuzzing starts from: small healthy inputs of every kind, made here or taken from configs/."""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

CONFIGS = Path(__file__).parents[1] / "configs"


def make_images() -> list[bytes]:
    """Return images of every format and kind that ingest takes."""
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 255, (6, 8, 3)).astype(np.uint8)).resize((45, 33))
    other = smooth.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    deep = Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif.update({0x010F: "maker", 0x0112: 6, 0x0131: "program"})
    animated = {"save_all": True, "append_images": [other, smooth]}
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("name", "words " * 50, zip=True)
    text.add_itxt("other", "words " * 50, "en", "name", zip=True)

    def encode(image: Image.Image, kind: str, **how: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **how)
        return buffer.getvalue()

    cut_out = smooth.convert("RGBA")
    cut_out.putalpha(other.convert("L"))
    modes = {mode: smooth.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")}
    return [
        encode(smooth, "JPEG"),
        encode(smooth, "JPEG", progressive=True, exif=exif, icc_profile=b"profile" * 30),
        encode(modes["L"], "JPEG", restart_marker_blocks=2),
        encode(modes["CMYK"], "JPEG", subsampling=0),
        *(encode(modes[mode], "PNG") for mode in ("1", "L", "LA", "P", "RGBA")),
        encode(smooth, "PNG", pnginfo=text, exif=exif, icc_profile=b"profile" * 30),
        encode(deep, "PNG"),
        encode(cut_out, "PNG"),
        encode(cut_out, "GIF"),
        encode(cut_out, "WEBP"),
        encode(cut_out.quantize(16), "PNG", exif=exif),
        encode(modes["CMYK"], "JPEG").replace(b"Adobe", b"other"),
        encode(smooth, "GIF"),
        encode(smooth, "GIF", **animated),
        *(encode(modes[mode], "BMP") for mode in ("1", "L", "RGB", "RGBA")),
        encode(smooth, "WEBP"),
        encode(modes["RGBA"], "WEBP", lossless=True, exif=exif.tobytes()),
        encode(smooth, "WEBP", **animated),
        *(encode(modes[mode], "TIFF") for mode in ("1", "L", "P", "RGB", "CMYK")),
        encode(deep, "TIFF"),
        encode(smooth, "TIFF", exif=exif, **animated),
        encode(smooth, "TIFF", big_tiff=True),
        *(encode(smooth, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
    ]


def make_configs() -> list[bytes]:
    """Return the configs of this repository, and one with anchors, merges and tags."""
    tricky = """
name: &name tricky
data: &data {path: [a, b], split: {train: 0.5, val: 0.25, test: 0.25}, exclude: ['*.gif'], labels: labels.txt}
backbone: [efficientnet_lite0, {keras: VGG16, layer: block5_pool, pooling: gem, size: 224}, {frozen_graph: a.pb,
  input: input, bottleneck: features, scale: [-1, 1]}]
head: [{units: 512, activation: tanh, dropout: 0.5}, {units: 64}]
train: {epochs: 8, l2: 1e-4, class_weight: {cat: 2, dog: 1.5}, schedule: {kind: exponential, decay: 0.9}}
curve: {shots: [5, 60%], backbones: [efficientnet_lite0, [efficientnet_lite1, efficientnet_lite2]]}
evaluate: {thresholds: {accuracy: 0.7, loss: 1.0}, max_accuracy_drop: 0.5}
output_dir: !!str runs/tricky
seed: 0x10
"""
    return [*(file.read_bytes() for file in sorted(CONFIGS.glob("*.yaml"))), tricky.encode()]


def make_manifests() -> list[tuple[str, bytes]]:
    """Return manifests with the suffix of their names; their images are those of the folder that they lie in."""
    rows = [
        (f"{label}/{n}.png", label, split, "s", f"g{n}") for label in ("cat", "dög") for n, split in enumerate(SPLITS)
    ]
    names = ("path", "label", "split", "source", "group")
    table = "\n".join(",".join(row) for row in [names, *rows])
    quoted = "\r\n".join(",".join(f'"{cell}"' for cell in row) for row in [names, *rows])
    lines = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    return [
        (".csv", table.encode()),
        (".csv", b"\xef\xbb\xbf" + quoted.encode()),
        (".tsv", table.replace(",", "\t").encode()),
        (".jsonl", lines.encode()),
    ]


SPLITS = ("train", "train", "val", "test", "")


def make_weights() -> list[bytes]:
    """Return small state dicts in PyTorch's legacy format, as torch.save of before 1.6 writes them."""
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    header = magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\x00(X\x0d\0\0\0little_endianq\x01\x88u."
    return [header + _pickle_tensors(shapes) for shapes in ([(4,)], [(2, 3), (3,), ()], [(1, 2, 3, 2)] * 4)]


def _pickle_tensors(shapes: list[tuple[int, ...]]) -> bytes:
    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    pickled, keys, data = [b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01("], [], []
    for number, shape in enumerate(shapes):
        count = int(np.prod(shape))
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
        tuples = [b"(" + b"".join(b"K" + bytes([side]) for side in sides) + b"t" for sides in (shape, strides)]
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(number)) + text("cpu")
        pickled += [text(f"layer{number}.weight"), b"ctorch._utils\n_rebuild_tensor_v2\n("]
        pickled += [storage, b"K", bytes([count]), b"NtQK\x00", *tuples, b"\x89ccollections\nOrderedDict\n)RtR"]
        keys.append(text(str(number)))
        data.append(struct.pack("<q", count) + np.arange(count, dtype="<f4").tobytes())
    metadata = b"}" + text("_metadata") + b"h\x00)Rsb"
    return b"".join([*pickled, b"u", metadata, b".", b"\x80\x02](", *keys, b"e.", *data])


def make_graphs() -> list[bytes]:
    """Return small frozen GraphDefs, one with a function."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def network(pixels: tf.Tensor) -> tf.Tensor:
        maps = tf.nn.relu(tf.nn.conv2d(pixels, tf.ones([3, 3, 3, 4]), 2, "SAME"))
        return tf.reduce_mean(tf.cond(tf.reduce_max(maps) > 1, lambda: maps, lambda: maps + 1), [1, 2])

    concrete = tf.function(network).get_concrete_function(tf.TensorSpec([None, 8, 8, 3]))
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    return [frozen.graph.as_graph_def().SerializeToString()]


def make_archives() -> list[bytes]:
    """Return small archives of every kind."""
    import tarfile
    import zipfile

    files = {"a/1.txt": b"one" * 40, "a/2.txt": b"", "b.txt": bytes(3000)}
    packed = []
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name if mode != "w" else f"{'long' * 40}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        packed.append(buffer.getvalue())
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        packed.append(buffer.getvalue())
    return packed


def make_requests() -> list[tuple[bytes, bytes]]:
    """Return requests to the server as (head without length, body)."""
    images = [base64.b64encode(image).decode() for image in make_images()[::5]]
    instances = [{"b64": image} for image in images]
    model = b"/v1/models/toy"
    raw = make_images()
    return [
        (b"POST " + model + b":predict HTTP/1.1\r\nHost: 127.0.0.1\r\n", json.dumps({"instances": instances}).encode()),
        (
            b"POST " + model + b"/versions/1:predict HTTP/1.1\r\nHost: localhost\r\n",
            json.dumps({"signature_name": "serving_default", "inputs": {"image_bytes": instances[:2]}}).encode(),
        ),
        *((b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\n", image) for image in raw[::4]),
        (b"GET " + model + b"/metadata HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/html\r\n", b""),
    ]
