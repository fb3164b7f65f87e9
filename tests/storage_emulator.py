"""Google Cloud Storage on this machine: an emulator, mended so that TensorFlow's plugin for gs:// can talk to it.

TensorFlow's own client knows no emulator; that of tensorflow-io-gcs-filesystem, which comes with TensorFlow, does.
"""

from __future__ import annotations

import logging
import threading

from gcp_storage_emulator import server

BUCKET = "bucket"
# The plugin copies what its first buffer does not hold into one of 16 KiB, whatever its size: over TLS it is no more.
PIECE = 8192


def environment(port: int) -> dict[str, str]:
    """Return what makes gcsfs, Beam and TensorFlow use the emulator; the plugin crashes where a limit is not set."""
    address = f"http://localhost:{port}"
    return {
        "STORAGE_EMULATOR_HOST": address,
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,
        "TF_USE_MODULAR_FILESYSTEM": "1",
        "GCS_READ_CACHE_BLOCK_SIZE_MB": "16",
        "GCS_READ_CACHE_MAX_SIZE_MB": "256",
        "GCS_READ_CACHE_MAX_STALENESS": "0",
        "GCS_STAT_CACHE_MAX_AGE": "0",
        "GCS_STAT_CACHE_MAX_ENTRIES": "0",
    }


def connect_anonymously() -> None:
    """Make Beam connect without credentials in this process; else it looks for some for 30 s first."""
    from apache_beam.internal.gcp.auth import _Credentials  # read in 2.72

    _Credentials._credentials_init = True


def mend() -> None:
    """Make the emulator answer as the libraries need it."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    logging.basicConfig(level=logging.CRITICAL)
    server.RequestHandler.protocol_version = "HTTP/1.1"
    # Of a hundred connections at once, those that five do not hold are tried again seconds later.
    server.server.HTTPServer.request_queue_size = 1024
    server.Response.close = _answer
    read_data = server._read_data
    server._read_data = lambda handler, query: _or_empty(handler, read_data(handler, query))


def serve() -> None:
    """Run the emulator on a free port, which is printed, until the process ends."""
    mend()
    running = server.create_server("localhost", 0, in_memory=True, default_bucket=BUCKET)
    running.start()
    print(running._api._httpd.server_address[1], flush=True)
    threading.Event().wait()


def _or_empty(handler, data):
    # An object without content, such as stands for a folder: the emulator fails on it.
    return b"" if data is None and handler.command == "PUT" else data


def _answer(self) -> None:
    handler, content = self._handler, self._content
    content = content.encode() if isinstance(content, str) else content
    handler.send_response(self.status.value, self.status.phrase)
    for name, value in self._headers.items():
        handler.send_header(name, value)
    handler.send_header("Connection", "close")
    handler.send_header("Content-Length", str(len(content)))
    in_pieces = handler.command == "GET" and handler.path.startswith(f"/{BUCKET}/")  # the plugin reads so
    if in_pieces:
        handler.send_header("Transfer-Encoding", "chunked")
        pieces = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
        content = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    handler.end_headers()
    handler.wfile.write(content)
    handler.close_connection = True


if __name__ == "__main__":
    serve()
