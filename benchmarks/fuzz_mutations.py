"""Damage to healthy inputs: of their bytes, of their numbers, and of what their formats are made of."""

from __future__ import annotations

import json
import random
import struct
import zlib
from typing import Any

import yaml

NUMBERS = [0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1]

# Names and values that have hurt some program or other.
STRINGS = [
    *(
        "",
        " ",
        "\0",
        "\n",
        "a\0b",
        "../outside/decoy",
        "/etc/passwd",
        "=cmd|' /C calc'!A0",
        "\x1b[2J",
        "\u202e",
        "\ud800",
    ),
    *(
        "<script>alert(1)</script>",
        "{{7*7}}",
        "%s%n",
        "$(touch stray)",
        "a" * 5000,
        "é" * 300,
        "1" * 5000,
        "file:///dev/zero",
    ),
    *("/dev/zero", "gs://bucket/a", "https://host/a", "ram://a"),
    *("nan", "-inf", "1e400", "0x10", "~", "CON", ".", ".."),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 10**30, -(10**400), 0.5, float("nan"), float("inf"), 1e308),
    *([], {}, [[]], {"": None}, [1, 2], {"a": {"b": "c"}}, "auto", "balanced"),
    *STRINGS,
]
YAML_PARTS = [
    *(
        "&a ",
        "*a",
        "<<: *name",
        "<<: [*name, *data]",
        "!!python/object/apply:os.system [touch stray]",
        "!!int x",
        "!!binary a",
    ),
    *(
        "!!timestamp x",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "? [a]\n: b",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
        "[" * 200,
        "{a: " * 60,
    ),
    *("2001-99-99", "1" * 5000, ".inf", "0o9", "1:99", "\t"),
    *("\x07", "\u2028", "|\n", ">-\n", "'", '"', "#", "@", "`"),
]
PICKLE_PARTS = [
    *(
        b"cos\nsystem\n(X\x0b\0\0\0touch straytR",
        b"c__builtin__\neval\n",
        b"cbuiltins\nexec\n",
        b"ctorch\nFloatStorage\n",
    ),
    *(b"r\xff\xff\xff\x7f", b"r\xff\xff\xff\xff", b"\x96" + b"\xff" * 7 + b"\x0f", b"\x95" + b"\xff" * 7 + b"\x0f"),
    *(b")" + b"q\x09h\x09\x86" * 60, b"2\x86" * 60 + b"K\x01s", b"\x8a\xff" + b"\x7f" * 255, b"\x8b\xff\xff\xff\x7f"),
    *(
        b"(" * 2000,
        b"]q\x08h\x08a",
        b"}b",
        b"o",
        b"i",
        b"R",
        b"Q",
        b"\x81",
        b"\x92",
        b"\x93",
        b"\x88",
        b"N",
        b"0",
        b"1",
        b".",
    ),
]
JSON_PARTS = [
    "[" * 3000,
    '{"a":' * 3000,
    "1" * 5000,
    "NaN",
    "-Infinity",
    "1e999",
    '"\\ud800"',
    '"\\u0000"',
    "[{}," * 500,
]
HEAD_PARTS = [
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"Host: evil\r\n",
        b"Origin: null\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        b"X: " + b"a" * 70000 + b"\r\n",
    ),
    *(
        b"Range: bytes=0-\r\n",
        b"X-Forwarded-For: 1.2.3.4\r\n",
        b"Content-Encoding: gzip\r\n",
        b" folded\r\n",
        b"\0\r\n",
        b"\n",
    ),
]
PATHS = [
    b"/../../etc/passwd",
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/v1/models/%00",
    b"//host/",
    b"/classify?a=b",
    b"*",
    b"/\xff",
]


def mutate_bytes(content: bytes, dice: random.Random, other: bytes = b"") -> bytes:
    """Return content with some of its bytes changed, cut, repeated, moved, or taken from another."""
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 1, 2, 4, 16])):
        at = dice.randrange(len(data) + 1)
        length = dice.choice([1, 2, 4, 8, 64, 1024])
        kind = dice.randrange(8)
        if kind == 0 and data:
            data[at - 1] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at : at + length] = dice.randbytes(length)
        elif kind == 2:
            size = dice.choice(["B", "<H", ">H", "<I", ">I", "<Q"])
            number = struct.pack(size, dice.choice(NUMBERS) % 256 ** struct.calcsize(size))
            data[at : at + len(number)] = number
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length] * dice.choice([1, 2, 50])
        elif kind == 5:
            del data[at:]
        elif kind == 6 and other:
            start = dice.randrange(len(other))
            data[at : at + length] = other[start : start + length]
        else:
            data[at:at] = bytes([dice.randrange(256)]) * length
    return bytes(data)


def mutate_image(seeds: list[bytes], dice: random.Random) -> bytes:
    """Return a damaged image; the checksums of a PNG's chunks are made right again, so that damage gets behind them."""
    image = dice.choice(seeds)
    if image.startswith(b"\x89PNG") and dice.random() < 0.7:
        chunks = _split_png(image)
        for _ in range(dice.choice([1, 1, 3])):
            number = dice.randrange(len(chunks))
            kind, content = chunks[number]
            what = dice.randrange(4)
            if what == 0:
                chunks[number] = (kind, mutate_bytes(content, dice))
            elif what == 1:
                chunks.insert(dice.randrange(len(chunks) + 1), (kind, content))
            elif what == 2:
                packed = zlib.compress(bytes(dice.choice([10, 10**5, 10**7])))
                head = dice.choice(
                    [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0"), (b"IDAT", b"")]
                )
                chunks[number:number] = [(head[0], head[1] + packed)] * dice.choice([1, 3])
            else:
                chunks[number] = (dice.choice([b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fdAT", b"IEND"]), content)
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
            for kind, content in chunks
        )
    if dice.random() < 0.3:  # a header tells most
        return mutate_bytes(image[:64], dice) + image[64:]
    return mutate_bytes(image, dice, dice.choice(seeds))


def _split_png(png: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        chunks.append((kind, png[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def mutate_value(value: Any, dice: random.Random) -> Any:
    """Return a structure of dicts and lists in which one value or key is another."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(list(value))
        if dice.random() < 0.1:
            return {**value, dice.choice([*STRINGS, 1, None, *value]): dice.choice(VALUES)}
        return {**value, key: mutate_value(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.85:
        at = dice.randrange(len(value))
        return [*value[:at], mutate_value(value[at], dice), *value[at + 1 :]]
    return dice.choice(VALUES)


def mutate_text(text: bytes, parts: list[Any], dice: random.Random) -> bytes:
    """Return text with one of the parts at some place, mostly where a word begins."""
    places = [at for at in range(1, len(text)) if text[at - 1 : at] in b" \n:,[" and text[at - 1 : at]] or [0]
    for _ in range(dice.choice([1, 1, 2])):
        at = dice.choice(places)
        part = dice.choice(parts)
        part = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        text = text[:at] + part + text[at + dice.choice([0, 1, 8]) :]
    return text


def mutate_config(seeds: list[bytes], dice: random.Random) -> bytes:
    """Return a damaged config."""
    seed = dice.choice(seeds)
    kind = dice.randrange(4)
    if kind == 0:
        return mutate_bytes(seed, dice, dice.choice(seeds))
    if kind == 1:
        return mutate_text(seed, YAML_PARTS, dice)
    value = yaml.safe_load(seed)
    for _ in range(dice.choice([1, 1, 2])):
        value = mutate_value(value, dice)
    return yaml.safe_dump(value, allow_unicode=dice.random() < 0.5).encode("utf-8", "surrogatepass")


def mutate_manifest(seeds: list[tuple[str, bytes]], dice: random.Random) -> tuple[str, bytes]:
    """Return the suffix and the content of a damaged manifest."""
    suffix, seed = dice.choice(seeds)
    kind = dice.randrange(3)
    if kind == 0:
        return suffix, mutate_bytes(seed, dice, dice.choice(seeds)[1])
    if kind == 1:
        return suffix, mutate_text(seed, [*STRINGS, *JSON_PARTS, '"', ",", "\t", "\r", "\n\n"], dice)
    if suffix == ".jsonl":
        lines = [json.loads(line) for line in seed.splitlines()]
        at = dice.randrange(len(lines))
        lines[at] = mutate_value(lines[at], dice)
        return suffix, "\n".join(_dump_json(line) for line in lines).encode()
    comma = "\t" if suffix == ".tsv" else ","
    rows = [line.split(comma) for line in seed.decode().splitlines()]
    row = dice.choice(rows)
    row[dice.randrange(len(row))] = dice.choice(STRINGS)
    return suffix, "\n".join(comma.join(row) for row in rows).encode("utf-8", "surrogatepass")


def _dump_json(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # a number of more digits than Python writes
        return "1" * 5000


def mutate_weights(seeds: list[bytes], dice: random.Random) -> bytes:
    """Return a damaged state dict, or one with opcodes that it should not have."""
    seed = dice.choice(seeds)
    if dice.random() < 0.5:
        return mutate_bytes(seed, dice, dice.choice(seeds))
    for _ in range(dice.choice([1, 1, 2])):
        at = dice.randrange(40, len(seed))
        seed = seed[:at] + dice.choice(PICKLE_PARTS) + seed[at + dice.choice([0, 1, 4]) :]
    return seed


def mutate_graph(seeds: list[bytes], operations: list[str], dice: random.Random) -> bytes:
    """Return a damaged GraphDef, or one with other operations."""
    from tensorflow.core.framework.graph_pb2 import GraphDef

    seed = dice.choice(seeds)
    if dice.random() < 0.5:
        return mutate_bytes(seed, dice)
    graph = GraphDef.FromString(seed)
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    for _ in range(dice.choice([1, 2])):
        dice.choice(nodes).op = dice.choice(operations)
    return graph.SerializeToString()


def mutate_archive(seeds: list[bytes], dice: random.Random) -> bytes:
    """Return a damaged archive, or one whose names lead elsewhere."""
    seed = dice.choice(seeds)
    if dice.random() < 0.3:
        for name in (b"a/1.txt", b"b.txt"):
            evil = dice.choice([b"../../x", b"/tmp/xx", b"..\\..\\x", b"a/../..", b"\0/1.txt", b"C:/1.tx"])[: len(name)]
            seed = seed.replace(name, evil.ljust(len(name), b"x"))
    return mutate_bytes(seed, dice, dice.choice(seeds))


def mutate_request(seeds: list[tuple[bytes, bytes]], images: list[bytes], dice: random.Random) -> bytes:
    """Return a damaged HTTP request, head and body."""
    head, body = dice.choice(seeds)
    kind = dice.randrange(6)
    if kind == 0:
        body = mutate_bytes(body, dice)
    elif kind == 1 and body.startswith(b"{"):
        body = mutate_text(body, [*JSON_PARTS, *STRINGS], dice)
    elif kind == 2 and body.startswith(b"{"):
        body = _dump_json(mutate_value(json.loads(body), dice)).encode()
    elif kind == 2:
        body = mutate_image(images, dice)
    elif kind == 3:
        lines = head.split(b"\r\n")
        lines[dice.randrange(len(lines))] = mutate_bytes(dice.choice(lines), dice)
        head = b"\r\n".join(lines)
    elif kind == 4:
        at = head.index(b"\r\n") + 2
        head = head[:at] + dice.choice(HEAD_PARTS) + head[at:]
    else:
        head = b" ".join([head.split(b" ")[0], dice.choice(PATHS), head.split(b" ", 2)[2]])
    length = len(body) + dice.choice([0] * 8 + [-1, 1, 10**6])
    if dice.random() < 0.15:
        size = dice.choice([b"%x" % len(body), b"ffffffffffffffff", b"-1", b"0"])
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + body + b"\r\n0\r\n\r\n"
    request = head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % max(length, 0) + body
    return mutate_bytes(request, dice) if dice.random() < 0.1 else request
