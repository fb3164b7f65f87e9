"""What is fuzzed: for each target, how an input is made and what takes it, accepting it or refusing it in order."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fuzz_mutations as mutations
import fuzz_seeds as seeds
import numpy as np

# Takes one input, made of dice, in a folder of its own; returns whether it was accepted. Anything that it raises is a
# finding, and so is an answer that tells more than it should.
Take = Callable[[random.Random], bool]


@contextmanager
def fuzz_images(folder: Path) -> Iterator[Take]:
    """Images as ingest checks them; then the graph must decode them, and see the orientation that the header tells."""
    import tensorflow as tf

    from components.images.check import Limits, RejectedImage, check_image
    from components.images.exif import find_exif, read_orientation
    from components.images.exif_graph import find_orientation
    from components.images.stored_pixels import decode_upright
    from components.images.thumbnail import make_thumbnail

    healthy = seeds.make_images()
    orient, decode = (
        tf.function(function, input_signature=[tf.TensorSpec([], tf.string)])
        for function in (find_orientation, decode_upright)
    )
    for function in (orient, decode):
        function(check_image(healthy[0], Limits()).encoded)  # the first call builds graphs

    def take(dice: random.Random) -> bool:
        try:
            checked = check_image(mutations.mutate_image(healthy, dice), Limits())
        except RejectedImage:
            return False
        make_thumbnail(checked.encoded)
        seen, told = int(orient(checked.encoded)), read_orientation(find_exif(checked.encoded))
        if seen != told:
            raise AssertionError(f"the graph sees orientation {seen}, the header reader {told}")
        size = (checked.height, checked.width)
        if decode(checked.encoded).shape[:2] != (size if seen < 5 else size[::-1]):
            raise AssertionError(f"the graph sees other sides than {size}")
        return True

    yield take


@contextmanager
def fuzz_configs(folder: Path) -> Iterator[Take]:
    """Configs as topgraft run loads them."""
    from pipeline.load_config import load_config

    healthy = seeds.make_configs()
    close_buckets()
    path = folder / "config.yaml"

    def take(dice: random.Random) -> bool:
        path.write_bytes(mutations.mutate_config(healthy, dice))
        return _accepts(lambda: load_config(path, []).run_folder)

    yield take


@contextmanager
def fuzz_manifests(folder: Path) -> Iterator[Take]:
    """Manifests as ingest lists them."""
    from components.data.listing import list_images

    close_buckets()
    healthy = seeds.make_manifests()

    def take(dice: random.Random) -> bool:
        suffix, content = mutations.mutate_manifest(healthy, dice)
        path = folder / f"manifest{suffix}"
        path.write_bytes(content)
        return _accepts(lambda: list_images(str(path)).fingerprint())

    yield take


@contextmanager
def fuzz_weights(folder: Path) -> Iterator[Take]:
    """State dicts, as if their sum were the expected one."""
    from components.backbones.torch_weights import parse_state_dict

    healthy = seeds.make_weights()
    for content in healthy:
        parse_state_dict(content, "weights")

    def take(dice: random.Random) -> bool:
        return _accepts(lambda: parse_state_dict(mutations.mutate_weights(healthy, dice), "weights"))

    yield take


@contextmanager
def fuzz_graphs(folder: Path) -> Iterator[Take]:
    """Frozen graphs as they are read before anything of them runs."""
    import tensorflow as tf

    from components.backbones.frozen_graphs import read_graph_def

    healthy = seeds.make_graphs()
    operations = [name for name in dir(tf.raw_ops) if name[0].isupper()] + ["NoSuchOperation"]
    path = folder / "graph.pb"

    def take(dice: random.Random) -> bool:
        path.write_bytes(mutations.mutate_graph(healthy, operations, dice))
        return _accepts(lambda: read_graph_def(path))

    yield take


@contextmanager
def fuzz_archives(folder: Path) -> Iterator[Take]:
    """Archives as downloads are unpacked."""
    from components.storage.archives import unpack

    healthy = seeds.make_archives()
    path, unpacked = folder / "archive", folder / "unpacked"

    def take(dice: random.Random) -> bool:
        path.write_bytes(mutations.mutate_archive(healthy, dice))
        shutil.rmtree(unpacked, ignore_errors=True)
        return _accepts(lambda: unpack(path, unpacked))

    yield take


def close_buckets() -> None:
    """Have Google's client refuse whatever is in a bucket: inputs may name one, and nothing here asks the network."""
    import gcsfs

    async def refuse(*_: Any, **__: Any) -> None:
        raise gcsfs.retry.HttpError({"code": 403, "message": "no network"})

    gcsfs.core.GCSFileSystem._request = refuse
    gcsfs.credentials.GoogleCredentials.connect = lambda *_, **__: None  # else Google's machines are asked


def _accepts(call: Callable[[], Any]) -> bool:
    """Tell whether a call succeeds; its refusal must be a UserError of one sentence, or what the command makes one."""
    from components.errors import UserError
    from components.storage.places import cloud_errors
    from components.terminal.text import printable

    try:
        call()
    except UserError as error:
        message = printable(str(error))
        if not message.endswith(".") or len(message) > 20_000:
            raise AssertionError(f"the refusal is no sentence: {message[:300]!r}") from error
        return False
    except cloud_errors():
        return False
    return True


@contextmanager
def fuzz_serve(folder: Path) -> Iterator[Take]:
    """Requests to a real server on a socket of this machine; its model decodes images and does no more."""
    import tensorflow as tf
    import uvicorn

    from components.images.stored_pixels import decode_upright
    from components.predict.predict import Answer, Classifier
    from components.serve.server import make_config
    from components.serve.tf_serving import ServedExport

    decode = tf.function(decode_upright, input_signature=[tf.TensorSpec([], tf.string)])

    def compute(encoded: list[bytes]) -> list[Answer]:
        shares = [float(tf.reduce_mean(tf.cast(decode(image)[:1], tf.float32))) / 255 for image in encoded]
        return [Answer(np.array([share, 1 - share], np.float32)) for share in shares]

    served = ServedExport("toy", "1", folder, Classifier(["cat", "dög <b>"], compute), {"model_spec": {"name": "toy"}})
    server = uvicorn.Server(make_config(served, None, "127.0.0.1"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    healthy, images = seeds.make_requests(), seeds.make_images()
    secrets = [str(folder).encode(), str(Path(__file__).parents[1]).encode(), sys.prefix.encode(), b"Traceback"]

    def take(dice: random.Random) -> bool:
        answer = _ask(listener.getsockname(), mutations.mutate_request(healthy, images, dice))
        if not answer:
            return False  # not HTTP, or not an end of one
        status = int(answer.split(b" ", 2)[1])
        if status == 500 or any(secret in answer for secret in secrets):
            raise AssertionError(f"the answer is {answer[:300]!r}")
        return status < 400

    yield take
    assert _ask(listener.getsockname(), b"GET /v1/models/toy HTTP/1.0\r\nHost: localhost\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )
    server.should_exit = True
    thread.join(10)


def _ask(address: tuple[str, int], request: bytes) -> bytes:
    """Return all that a server answers to bytes; raises TimeoutError where it keeps the connection for ever."""
    answer = b""
    with socket.create_connection(address, timeout=30) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(2**16):
                answer += part
        except ConnectionError:  # refused before it was sent to its end
            pass
    return answer


TARGETS = {
    "images": fuzz_images,
    "configs": fuzz_configs,
    "manifests": fuzz_manifests,
    "weights": fuzz_weights,
    "serve": fuzz_serve,
    "graphs": fuzz_graphs,
    "archives": fuzz_archives,
}

# What Python tells of before it happens, and which of its arguments are paths that change.
CHANGES = {
    **dict.fromkeys(["os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime"], 1),
    **dict.fromkeys(["os.rename", "os.link", "os.symlink", "shutil.move", "shutil.copyfile"], 2),
}
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn", "ctypes.dlopen")
DEVICES = ("/dev/null", "/dev/urandom", "/proc/", "/sys/", "/etc/", "/usr/share/zoneinfo/")


def watch_files(folder: Path) -> list[str]:
    """Return a list that fills with what this process does outside a folder: files opened or changed, programs begun.

    Modules may be read, and what is already open stays so.
    """
    stray: list[str] = []
    readable = [os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, *sys.path, folder)]
    inside = os.path.realpath(folder)

    def place(path: Any, folder_number: Any = -1) -> str:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return inside  # open already
        below = os.readlink(f"/proc/self/fd/{folder_number}") if folder_number in range(2**20) else ""
        return os.path.realpath(os.path.join(below, os.fsdecode(path)))

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            found = place(path)
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                if not found.startswith((inside, "/dev/null")):
                    stray.append(f"wrote {found}")
            # Python does not tell of which folder a relative path is.
            elif not found.startswith((*readable, *DEVICES)) and os.path.lexists(found):
                stray.append(f"read {found}")
        elif event in CHANGES:
            paths = [place(path, arguments[-1]) for path in arguments[: CHANGES[event]]]
            stray.extend(f"{event} {path}" for path in paths if not path.startswith(inside))
        elif event in STARTS:
            stray.append(f"{event} {str(arguments)[:200]}")
        elif event == "socket.connect" and arguments[1][0] != "127.0.0.1":
            stray.append(f"{event} {arguments[1]}")

    sys.addaudithook(hook)
    return stray


def run_inputs(target: str, first: int, end: int, seed: int, folder: Path) -> None:
    """Give inputs first to end to a target; prints a line of JSON when it is ready, and one after each input."""
    import resource

    with TARGETS[target](folder) as take:
        take(random.Random("warm"))  # what is imported on first use
        stray = watch_files(folder)
        print(json.dumps({"ready": True}), flush=True)
        for number in range(first, end):
            started = time.perf_counter()
            finding = ""
            try:
                accepted = take(random.Random(f"{seed} {target} {number}"))
            except Exception as error:
                accepted, finding = False, f"{type(error).__name__}: {error}"[:500]
            seconds = time.perf_counter() - started
            row = {"input": number, "accepted": accepted, "finding": finding, "stray": stray[:], "seconds": seconds}
            stray.clear()
            print(json.dumps(row), flush=True)
        print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}), flush=True)


if __name__ == "__main__":
    target, first, end, seed, folder = sys.argv[1:]
    run_inputs(target, int(first), int(end), int(seed), Path(folder))
    sys.stdout.flush()
    os._exit(0)
