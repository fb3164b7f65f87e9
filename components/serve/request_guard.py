"""What stands before every request of the server: who may ask, and the headers of all answers."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Of one address: a quarter of what one core answers of the cheapest, and more than any model classifies one by one.
REQUESTS_PER_SECOND, REQUESTS_AT_ONCE = 500.0, 1000.0
MAX_ADDRESSES = 10_000  # remembered

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


class Rate:
    """Counts the requests of each address: so many a second, and a few seconds' worth at once."""

    def __init__(self, per_second: float, at_once: float):
        self._interval = 1 / per_second
        self._burst = at_once / per_second
        # When all requests so far would have been due, evenly spaced.
        self._due: OrderedDict[str, float] = OrderedDict()

    def allows(self, address: str, now: float) -> bool:
        """Count a request at a time in seconds; tell whether it may be answered."""
        due = max(self._due.pop(address, now), now)
        allowed = due - now < self._burst - self._interval / 2
        self._due[address] = due + self._interval if allowed else due
        if len(self._due) > MAX_ADDRESSES:
            self._due.popitem(last=False)
        return allowed


class Guard:
    """Refuses what a foreign web page sends through the user's browser, and adds headers to all answers.

    A page of another origin says so in Origin; one that had its name resolve to this machine (DNS rebinding) in Host.
    """

    def __init__(self, app: ASGIApp, hosts: set[str]):
        self._app = app
        self._hosts = hosts
        self._rate = Rate(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE)

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
        address = (scope.get("client") or ("",))[0]
        if not self._rate.allows(address, time.monotonic()):
            refusal = JSONResponse({"error": "Too many requests: send fewer."}, 429, {"Retry-After": "1"})
            await refusal(scope, receive, send_with_headers)
        elif foreign or (self._hosts and _strip_port(host) not in self._hosts):
            refusal = JSONResponse({"error": "Requests of other web pages or for other hosts are not answered."}, 403)
            await refusal(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def _strip_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
