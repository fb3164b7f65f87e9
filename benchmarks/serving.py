"""How many images a second topgraft serve answers to 16 clients, beside the bare SavedModel.

    python benchmarks/serving.py runs/caltech101/export data/caltech101 [--seconds 10] [--clients 16]

Starts the server as a process of its own. Each client is a thread that posts one image after the other, as a client of
TensorFlow Serving does; the bare model is called in this process with batches of 1 and 32. Clients and server
share the machine's cores.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import requests


def ask_all(address: str, bodies: list[bytes], clients: int, seconds: float) -> tuple[list[float], int, float]:
    """Return the seconds of each answer, the number of errors, and the wall seconds of all."""
    latencies: list[float] = []
    errors: list[str] = []
    ends = time.perf_counter() + seconds

    def ask(first: int) -> None:
        with requests.Session() as session:
            for body in itertools.islice(itertools.cycle(bodies), first, None):
                started = time.perf_counter()
                if started > ends:
                    return
                try:
                    session.post(address, data=body, timeout=60).raise_for_status()
                    latencies.append(time.perf_counter() - started)
                except requests.RequestException as error:
                    errors.append(str(error))

    started = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(number * len(bodies) // clients,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, len(errors), time.perf_counter() - started


def measure_server(export: Path, images: list[bytes], clients: int, seconds: float) -> None:
    """Print what the server does for one client and for many."""
    bodies = [json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode() for image in images]
    command = [str(Path(sys.executable).with_name("topgraft")), "serve", str(export), "--port", "0", "--name", "bench"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = re.search(r"http://\S+", process.stdout.readline())[0] + "/v1/models/bench:predict"
        ask_all(address, bodies, clients, 2)  # warm
        for number in (1, clients):
            latencies, errors, wall = ask_all(address, bodies, number, seconds)
            p50, p99 = 1000 * np.percentile(latencies, [50, 99])
            rate = len(latencies) / wall
            print(f"{f'serve, {number} clients':22} {rate:9.1f} {p50:8.1f} {p99:8.1f} {errors:7}", flush=True)
        process.send_signal(signal.SIGINT)


def measure_model(export: Path, images: list[bytes], seconds: float) -> None:
    """Print what the SavedModel itself does with batches of 1 and of 32."""
    from components.export.versions import find_export
    from components.predict.predict import load_export

    compute = load_export(find_export(export)).compute
    for size in (1, 32):
        batches = [images[start : start + size] for start in range(0, len(images) - size + 1, size)]
        compute(batches[0])
        latencies: list[float] = []
        ends = time.perf_counter() + seconds
        for batch in itertools.cycle(batches):
            started = time.perf_counter()
            if started > ends:
                break
            compute(batch)
            latencies.append(time.perf_counter() - started)
        p50, p99 = 1000 * np.percentile(latencies, [50, 99])
        print(f"{f'SavedModel, batch {size}':22} {size * len(latencies) / sum(latencies):9.1f} {p50:8.1f} {p99:8.1f}")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    files = sorted(options.images.rglob("*.jpg"))
    images = [file.read_bytes() for file in files[:: max(len(files) // 512, 1)][:512]]
    print(f"{len(images)} images\n{'':22} {'images/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}", flush=True)
    measure_model(options.export, images, options.seconds)
    measure_server(options.export, images, options.clients, options.seconds)


if __name__ == "__main__":
    main()
