"""Connections of the server: how many there may be, and how long each may keep it waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Half of the files that a process may open on most systems.
MAX_CONNECTIONS = 512
# From a connection, or a request's first byte, to the end of its head; then to that of its body, of which the server
# gives up earlier, with an answer.
HEAD_SECONDS = 10.0
REQUEST_SECONDS = 90.0
# How long an answer may wait for a client that does not read it.
UNREAD_SECONDS = 30.0


class Connection(H11Protocol):
    """A connection that is cut where its client dawdles; uvicorn itself limits the time between requests alone."""

    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _state: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; one too many ends at once."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._await_client(h11.IDLE)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a request that has come whole stops the clock."""
        super().data_received(data)
        self._await_client(self.conn.their_state)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self._await_client(h11.CLOSED)
        self._stop_writing()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        super().pause_writing()
        self._stop_writing()
        self._writing = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read most of it."""
        super().resume_writing()
        self._stop_writing()

    def _await_client(self, state: Any) -> None:
        if state is self._state:
            return
        self._state = state
        if self._reading:
            self._reading.cancel()
        seconds = {h11.IDLE: HEAD_SECONDS, h11.SEND_BODY: REQUEST_SECONDS}.get(state)
        self._reading = self.loop.call_later(seconds, self.transport.abort) if seconds else None

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing.cancel()
        self._writing = None
