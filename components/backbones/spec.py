"""The backbones that a config can name, and the parser of the config's backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.storage.downloads import Remote
from components.storage.places import as_path, expand_home


@dataclass(frozen=True)
class Spec:
    """One backbone of a config: at most one source (name, keras, hub or frozen_graph), and the tensor to take from it.

    name: embedded or downloaded frozen graph; keras: a class of tf.keras.applications; hub: URL, folder or tar archive;
    frozen_graph: a GraphDef file; vit: a folder or hf:// address. bottlenecks: ready-made, with or without a source.
    """

    name: str | None = None
    keras: str | None = None
    hub: str | None = None
    frozen_graph: str | None = None
    vit: str | None = None
    bottlenecks: str | None = None
    keys: str | None = None  # the list of keys that goes with a .npy file of bottlenecks
    weights: str | None = None  # keras: imagenet (default), none, or a path
    signature: str | None = None  # hub
    input: str | None = None  # frozen_graph: the tensor that takes pixels
    bottleneck: str | None = None  # frozen_graph: the tensor to take
    layer: str | None = None  # any other layer or tensor to take
    pooling: str | None = None  # avg, gem, max, flatten or none; default: avg for maps, none for vectors
    size: int | None = None  # side of the input in pixels
    scale: tuple[float, float] | None = None  # the range of pixels that the network expects

    @property
    def title(self) -> str:
        """The source with layer, pooling and size where set, such as 'VGG19:fc2', for reports."""
        source = self.name or self.keras or self.hub or self.frozen_graph or self.vit or self.bottlenecks or ""
        return ":".join([source, *(str(part) for part in (self.layer, self.pooling, self.size) if part)])

    @property
    def inputs(self) -> list[Path]:
        """The user's files: after a change of one, the backbone is prepared again."""
        return source_files((self,))

    @property
    def shift_and_divisor(self) -> tuple[float, float]:
        """The numbers that map pixels in [0, 255] to `scale`, [0, 1] by default: (value - shift) / divisor."""
        low, high = self.scale or (0.0, 1.0)
        divisor = 255 / (high - low)
        return -low * divisor, divisor


@dataclass(frozen=True)
class Lite:
    """One size of EfficientNet-Lite: depth, side of the input in pixels, width of the bottleneck, and weights."""

    depth: float
    size: int
    parameters: float  # millions
    dim: int
    sha256: str


EMBEDDED = {
    "efficientnet_lite0": Lite(
        1.0, 224, 4.65, 1984, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": Lite(
        1.1, 240, 5.42, 1984, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": Lite(
        1.2, 260, 6.09, 2048, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
MODELS_URL = "http://download.tensorflow.org/models"


@dataclass(frozen=True)
class FrozenArchive:
    """A frozen network in an archive below MODELS_URL, and the names of its tensors.

    flattened is a tensor after the bottleneck with the values of a single image. Fed with the bottlenecks of a batch,
    the operations after it work on that batch.
    """

    path: str
    bottleneck: str
    probabilities: str
    dim: int
    parameters: float  # millions
    size: int = 299
    input: str = "input:0"
    shift: float = 127.5
    divisor: float = 127.5
    flattened: str | None = None
    legacy_resize: bool = False

    @property
    def remote(self) -> Remote:
        """The archive to download; its checksum is not published, so the one of the first download is recorded."""
        return Remote(f"{MODELS_URL}/{self.path}", self.path.rpartition("/")[2], None, None)


# Tensor names: retrain.py and classify_image.py for the 2015 graph, slim's network definitions for the others.
FROZEN = {
    "inception_v3_2015": FrozenArchive(
        "image/imagenet/inception-2015-12-05.tgz",
        "pool_3:0",
        "softmax:0",
        2048,
        23.9,
        input="Mul:0",
        shift=128.0,
        divisor=128.0,
        flattened="pool_3/_reshape:0",
        legacy_resize=True,
    ),
    "inception_v3": FrozenArchive(
        "inception_v3_2016_08_28_frozen.pb.tar.gz",
        "InceptionV3/Logits/AvgPool_1a_8x8/AvgPool:0",
        "InceptionV3/Predictions/Reshape_1:0",
        2048,
        23.9,
    ),
    "inception_v4": FrozenArchive(
        "inception_v4_2016_09_09_frozen.pb.tar.gz",
        "InceptionV4/Logits/AvgPool_1a/AvgPool:0",
        "InceptionV4/Logits/Predictions:0",
        1536,
        42.7,
    ),
    "inception_resnet_v2": FrozenArchive(
        "tflite/model_zoo/upload_20180427/inception_resnet_v2_2018_04_27.tgz",
        "InceptionResnetV2/Logits/AvgPool_1a_8x8/AvgPool:0",
        "InceptionResnetV2/Logits/Predictions:0",
        1536,
        55.9,
    ),
}

# tf.keras.applications: input size, width of the bottleneck, millions of parameters (keras.io/api/applications).
KERAS = {
    "ConvNeXtBase": (224, 1024, 88.5),
    "ConvNeXtLarge": (224, 1536, 197.7),
    "ConvNeXtSmall": (224, 768, 50.2),
    "ConvNeXtTiny": (224, 768, 28.6),
    "DenseNet121": (224, 1024, 8.1),
    "DenseNet169": (224, 1664, 14.3),
    "DenseNet201": (224, 1920, 20.2),
    "EfficientNetB0": (224, 1280, 5.3),
    "EfficientNetB1": (240, 1280, 7.9),
    "EfficientNetB2": (260, 1408, 9.2),
    "EfficientNetB3": (300, 1536, 12.3),
    "EfficientNetB4": (380, 1792, 19.5),
    "EfficientNetB5": (456, 2048, 30.6),
    "EfficientNetB6": (528, 2304, 43.3),
    "EfficientNetB7": (600, 2560, 66.7),
    "EfficientNetV2B0": (224, 1280, 7.2),
    "EfficientNetV2B1": (240, 1280, 8.2),
    "EfficientNetV2B2": (260, 1408, 10.2),
    "EfficientNetV2B3": (300, 1536, 14.5),
    "EfficientNetV2L": (480, 1280, 119.0),
    "EfficientNetV2M": (480, 1280, 54.4),
    "EfficientNetV2S": (384, 1280, 21.6),
    "InceptionResNetV2": (299, 1536, 55.9),
    "InceptionV3": (299, 2048, 23.9),
    "MobileNet": (224, 1024, 4.3),
    "MobileNetV2": (224, 1280, 3.5),
    "MobileNetV3Large": (224, 960, 5.5),
    "MobileNetV3Small": (224, 576, 2.9),
    "NASNetLarge": (331, 4032, 88.9),
    "NASNetMobile": (224, 1056, 5.3),
    "ResNet101": (224, 2048, 44.7),
    "ResNet101V2": (224, 2048, 44.7),
    "ResNet152": (224, 2048, 60.4),
    "ResNet152V2": (224, 2048, 60.4),
    "ResNet50": (224, 2048, 25.6),
    "ResNet50V2": (224, 2048, 25.6),
    "VGG16": (224, 512, 138.4),
    "VGG19": (224, 512, 143.7),
    "Xception": (299, 2048, 22.9),
}

SOURCES = ("name", "keras", "hub", "frozen_graph", "vit")
# Values of layer for vision transformers: class token, mean of the patch tokens, both, the network's own features.
VIT_LAYERS = CLASS, MEAN, BOTH, POOLED = "class", "mean", "class+mean", "pooled"
# Fields of Spec that are or can be paths.
PATH_FIELDS = ("hub", "frozen_graph", "vit", "bottlenecks", "keys", "weights")
POOLINGS = ("avg", "gem", "max", "flatten", "none")
# Keys of a backbone, and the sources that read them.
READ_BY = {
    "size": SOURCES,
    "scale": ("hub", "frozen_graph"),
    "weights": ("keras",),
    "signature": ("hub",),
    "input": ("frozen_graph",),
    "bottleneck": ("frozen_graph",),
    "keys": ("bottlenecks",),
}


def parse_backbone(value: Any) -> tuple[Spec, ...]:
    """Return the specs of a config's backbone, which is a name, a URL, a mapping, or a list of these.

    Raises UserError for anything else, and for a file that does not exist.
    """
    if isinstance(value, list) and value:
        return tuple(spec for part in value for spec in parse_backbone(part))
    if isinstance(value, dict):
        return (_parse_mapping(value),)
    if isinstance(value, str):
        return (_parse_name(value),)
    raise UserError(f"backbone is {value!r}: expected a name, a mapping such as {{keras: VGG19}}, or a list of these.")


def _parse_name(text: str) -> Spec:
    if text in EMBEDDED or text in FROZEN:
        return Spec(name=text)
    if text in KERAS:
        return Spec(keras=text)
    if text.startswith("hf://") or (as_path(expand_home(text)) / "config.json").exists():
        return Spec(vit=expand_home(text))
    if "/" in text:
        return Spec(hub=expand_home(text))
    raise UserError(unknown("backbone", text, [*EMBEDDED, *FROZEN, *KERAS]))


def _parse_mapping(values: dict[str, Any]) -> Spec:
    known = [field.name for field in fields(Spec)]
    for key in values:
        if key not in known:
            raise UserError(unknown("key in backbone", str(key), known))
    scale, size = values.get("scale"), values.get("size")
    numbers = isinstance(scale, list) and len(scale) == 2 and all(type(end) in (int, float) for end in scale)
    if scale is not None and not (numbers and -math.inf < scale[0] < scale[1] < math.inf):
        raise UserError(f"backbone.scale is {scale!r}: expected the range of pixels as two numbers, such as [-1, 1].")
    if size is not None and not (isinstance(size, int) and 8 <= size <= 4096):
        raise UserError(f"backbone.size is {size!r}: expected the input's side in pixels, such as 224.")
    texts = {key: str(value) for key, value in values.items() if key not in ("scale", "size") and value is not None}
    texts |= {key: expand_home(texts[key]) for key in PATH_FIELDS if key in texts}
    if values.get("weights", "") is None:
        texts["weights"] = "none"
    spec = Spec(**texts, scale=tuple(scale) if scale else None, size=size)
    given = [source for source in SOURCES if getattr(spec, source)]
    if len(given) != 1 and not (spec.bottlenecks and not given):
        raise UserError(f"backbone has {given or 'no source'}: expected one of {', '.join(SOURCES)}.")
    if spec.name and spec.name not in EMBEDDED and spec.name not in FROZEN:
        raise UserError(unknown("backbone", spec.name, [*EMBEDDED, *FROZEN]))
    if spec.keras and spec.keras not in KERAS:
        raise UserError(unknown("Keras application", spec.keras, list(KERAS)))
    if spec.frozen_graph and not (spec.input and (spec.bottleneck or spec.layer)):
        raise UserError("backbone.frozen_graph needs backbone.input and backbone.bottleneck: name the two tensors.")
    if spec.pooling and spec.pooling not in POOLINGS:
        raise UserError(unknown("pooling", spec.pooling, list(POOLINGS)))
    for key, readers in READ_BY.items():
        if values.get(key) is not None and not any(getattr(spec, reader) for reader in readers):
            raise UserError(f"backbone.{key} has no effect without {' or '.join(readers)}: leave it out.")
    if spec.name in FROZEN and spec.size:
        raise UserError(f"backbone.size is {size}, but '{spec.name}' has a fixed size: leave it out.")
    if spec.vit and spec.layer not in (None, *VIT_LAYERS):
        raise UserError(f"backbone.layer is '{spec.layer}': for backbone.vit expected one of {', '.join(VIT_LAYERS)}.")
    folder = None if (spec.vit or "").startswith("hf://") else spec.vit
    for path in (folder, spec.frozen_graph, spec.bottlenecks, spec.keys, spec.weights):
        if path and path not in ("imagenet", "none") and not as_path(path).exists():
            raise UserError(f"There is no file '{path}', which backbone names: give a path that exists.")
    return spec


def name_specs(specs: Sequence[Spec]) -> str:
    """Return the title of concatenated backbones."""
    return "+".join(spec.title for spec in specs)


def has_network(spec: Spec) -> bool:
    """Return whether a spec names a network, and not only ready-made bottlenecks."""
    return any(getattr(spec, source) for source in SOURCES)


def source_files(specs: tuple[Spec, ...]) -> list[Path]:
    """Return the user's files that specs name and that exist."""
    paths = [getattr(spec, field) for spec in specs for field in PATH_FIELDS]
    return [as_path(path) for path in paths if path and as_path(path).exists()]


def unknown(kind: str, name: str, known: list[str]) -> str:
    """Return a sentence on an unknown name of some kind with up to three similar known names.

    A known name can have a shape after a space, which the sentence shows.
    """
    lower = {candidate.partition(" ")[0].lower(): candidate for candidate in known}
    nearest = [lower[match] for match in get_close_matches(name.lower(), lower, 3, 0.4)] or known[:3]
    return f"There is no {kind} '{name}'; the nearest are {', '.join(nearest)}."
