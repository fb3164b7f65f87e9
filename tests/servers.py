"""A server of an exported model in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path


def start_server(export: Path, *options: str) -> tuple[subprocess.Popen, str]:
    """Start topgraft serve on a free port; return the process and the address that it prints."""
    command = [sys.executable, "-m", "pipeline.cli", "serve", str(export), "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    said = []
    for line in process.stdout:  # a note may stand before the address
        said.append(line)
        found = re.search(r"http://\S+", line)
        if found:
            return process, found[0]
    raise AssertionError("".join(said))
