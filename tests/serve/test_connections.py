import socket
import threading
import time

import pytest
import uvicorn

from components.serve import connections
from components.serve.connections import Connection

LONG = 2**24


async def answer(scope, receive, send):
    """Read the body and answer with as many bytes as the query says."""
    while (await receive()).get("more_body"):
        pass
    size = int(scope["query_string"] or 2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": bytes(size)})


@pytest.fixture
def address(monkeypatch):
    for name, seconds in (("HEAD_SECONDS", 0.5), ("REQUEST_SECONDS", 1.0), ("UNREAD_SECONDS", 0.5)):
        monkeypatch.setattr(connections, name, seconds)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    config = uvicorn.Config(answer, http=Connection, ws="none", log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def read_all(connection):
    """Return what comes until the connection ends, cut or not."""
    parts = []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf"],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_client_that_dawdles_is_cut_off(address, beginning):
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(beginning)
        assert read_all(connection) == b""


def test_a_head_that_comes_byte_by_byte_is_cut_off(address):
    with socket.create_connection(address, timeout=30) as connection, pytest.raises(ConnectionError):
        for _ in range(200):
            connection.sendall(b"G")
            time.sleep(0.05)


def test_a_client_that_does_not_read_is_cut_off(address):
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"GET /?%d HTTP/1.1\r\nHost: a\r\n\r\n" % LONG)
        time.sleep(2)
        assert len(read_all(connection)) < LONG


def test_a_client_that_takes_its_time_between_requests_and_reads_is_answered(address):
    with socket.create_connection(address, timeout=30) as connection, connection.makefile("rb") as answers:
        for size in (2, 2**20, 2):
            connection.sendall(b"GET /?%d HTTP/1.1\r\nHost: a\r\n\r\n" % size)
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            while answers.readline().strip():
                pass
            assert answers.read(size) == bytes(size)
            time.sleep(0.8)


def test_one_connection_too_many_is_ended_and_a_later_one_is_not(address):
    several = [socket.create_connection(address, timeout=30) for _ in range(6)]
    assert read_all(several[-1]) == b""
    for connection in several:
        connection.close()
    time.sleep(0.2)
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200")
