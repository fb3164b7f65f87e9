"""What stands before every request of the server: who may ask, and the headers of all answers."""

from __future__ import annotations

import ipaddress

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}


def name_hosts(host: str) -> set[str]:
    """Return the host names by which a server on a loopback address may be asked for; none where any may."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    return {"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host} if loopback else set()


class Guard:
    """Refuses what a foreign web page sends through the user's browser, and adds headers to all answers.

    A page of another origin says so in Origin; one that had its name resolve to this machine (DNS rebinding) in Host.
    """

    def __init__(self, app: ASGIApp, hosts: set[str]):
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS.items()]}
            await send(message)

        headers = dict(scope["headers"])
        host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
        foreign = origin and origin.partition("://")[2] != host
        if foreign or (self._hosts and _strip_port(host) not in self._hosts):
            refusal = JSONResponse({"error": "Requests of other web pages or for other hosts are not answered."}, 403)
            await refusal(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def _strip_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
