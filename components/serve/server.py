"""Serve: an exported model over HTTP, as TensorFlow Serving's REST API and as a page for people."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from components.errors import UserError
from components.images.check import CheckedImage, Limits, RejectedImage, count_pixels, inspect_image
from components.images.thumbnail import make_thumbnail
from components.pages.html import encode_evidence, encode_uri, load_template
from components.predict.predict import DEFAULT_TOP_K, Answer, Classifier, describe_rejected, predict_each, rank_classes
from components.serve.batching import Batcher
from components.serve.neighbours import TrainingImages
from components.serve.tf_serving import Question, ServedExport, format_answers, format_status, parse_predict
from components.storage.places import describe_error
from components.storage.tables import escape_name
from components.terminal.text import printable

MAX_BODY = 32 * 2**20
BODY_SECONDS = 60.0  # 32 MiB at 4.5 Mbit/s
# Ten of the largest images that are read, or 80 of a phone's: ten seconds of decoding.
MAX_PIXELS = 1_000_000_000
# Threads that parse, inspect, transcode and compute, of which each may hold an image of 100 million pixels.
WORKERS = 3
# Requests whose bodies are held at once, 512 MiB at most; the others wait unread.
MAX_HELD = 16
# Half of the files that a process may open on most systems.
MAX_CONNECTIONS = 512


class Service:
    """The handlers of one model, with the batches and the bound on bodies that they share."""

    def __init__(self, served: ServedExport, training: TrainingImages | None):
        self._served = served
        self._training = training
        self._holding = asyncio.Semaphore(MAX_HELD)
        self.batcher = Batcher(functools.partial(predict_each, functools.partial(answer_questions, served.classifier)))

    async def answer_page(self, _: Request) -> Response:
        """The page: its one script bears the nonce that the policy asks for, nothing comes from elsewhere."""
        nonce = secrets.token_urlsafe(16)
        values = {"served": self._served, "training": self._training, "max_body": MAX_BODY, "nonce": nonce}
        page = load_template("serve.html.j2").render(values)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})

    async def answer_predict(self, request: Request) -> Response:
        """TensorFlow Serving's predict."""
        async with self._holding:
            body, classifier = await _read_body(request), self._served.classifier
            questions, columnar = await asyncio.to_thread(parse_predict, body, classifier)
            images = await asyncio.to_thread(_inspect_images, [question.encoded for question in questions])
            answers = await self._predict(images, [question.wanted for question in questions])
        labels = [escape_name(label) for label in self._served.classifier.labels]
        return JSONResponse(await asyncio.to_thread(format_answers, answers, labels, columnar))

    async def answer_image(self, request: Request) -> Response:
        """What the page shows of one image, whose file is the body."""
        async with self._holding:
            images = await asyncio.to_thread(_inspect_images, [await _read_body(request)])
            (answer,) = await self._predict(images, ["" if self._served.classifier.explain else None])
            return JSONResponse(await asyncio.to_thread(self._describe, images[0].encoded, answer))

    async def _predict(self, images: list[CheckedImage], wanted: list[str | None]) -> list[Answer]:
        questions = [Question(image.encoded, name) for image, name in zip(images, wanted, strict=True)]
        outcomes = await self.batcher.compute(questions, list(map(count_pixels, images)))
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, str):
                raise _refuse(number, len(images), outcome)
        return outcomes

    def _describe(self, encoded: bytes, answer: Answer) -> dict[str, object]:
        labels, thumbnail = self._served.classifier.labels, make_thumbnail(encoded)
        nearest = self._training.find_nearest(encoded) if self._training else []
        return {
            "ranked": [
                {"label": escape_name(labels[index]), "probability": float(answer.probabilities[index])}
                for index in rank_classes(answer.probabilities, DEFAULT_TOP_K)
            ],
            "abstained": bool(answer.abstained),
            "evidence": None if answer.evidence is None else encode_evidence(answer.evidence),
            "picture": encode_uri(thumbnail) if thumbnail else "",
            "nearest": [
                {**near._asdict(), "path": escape_name(near.path), "label": escape_name(near.label)} for near in nearest
            ],
        }


def answer_questions(classifier: Classifier, questions: Sequence[Question]) -> Sequence[Answer]:
    """Return the answers to questions, with evidence for those that ask for it."""
    encoded = [question.encoded for question in questions]
    if not classifier.explain or all(question.wanted is None for question in questions):
        return classifier.compute(encoded)
    answers = classifier.explain(encoded, [[question.wanted or ""] for question in questions])
    keeps = [question.wanted is not None for question in questions]
    return [one if keep else one._replace(evidence=None) for one, keep in zip(answers, keeps, strict=True)]


async def _read_body(request: Request) -> bytes:
    size, body = 0, bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= MAX_BODY:  # the rest is dropped: a client that is cut off while it sends misses the answer
                    body += chunk
    except (ClientDisconnect, TimeoutError) as error:
        raise HTTPException(408, f"The body took longer than the {BODY_SECONDS:.0f} seconds allowed.") from error
    if size > MAX_BODY:
        raise HTTPException(413, f"The body has more than the {MAX_BODY:,} bytes allowed.")
    return bytes(body)


def _inspect_images(contents: list[bytes]) -> list[CheckedImage]:
    """Return images as the model reads them; raises HTTPException for one that is not, and for too many pixels."""
    checked = []
    for number, content in enumerate(contents):
        try:
            checked.append(inspect_image(content, Limits()))
        except RejectedImage as rejected:
            raise _refuse(number, len(contents), describe_rejected(rejected)) from rejected
    if sum(map(count_pixels, checked)) > MAX_PIXELS:
        raise HTTPException(413, f"The images have more than the {MAX_PIXELS:,} pixels allowed in a request.")
    return checked


def _refuse(number: int, images: int, reason: str) -> HTTPException:
    return HTTPException(400, f"{f'Image {number}' if images > 1 else 'The image'} cannot be read ({reason}).")


class OriginMiddleware:
    """Refuses requests that pages of other origins send.

    Not a BaseHTTPMiddleware: that gives up an answer when a client has closed its sending side.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, headers = self._app, Headers(scope=scope) if scope["type"] == "http" else {}
        origin = headers.get("origin")
        if origin and origin.partition("://")[2] != headers.get("host"):
            app = JSONResponse({"error": "Requests of other web pages are not answered."}, 403)
        await app(scope, receive, send)


def make_app(served: ServedExport, training: TrainingImages | None, host: str) -> Starlette:
    """Return the application; host is the numeric address that it listens on."""
    service, model = Service(served, training), f"/v1/models/{served.name}"
    sentences = {
        404: f"There is nothing at this address: ask for {model}, version {served.version}.",
        405: "This address does not take this method.",
        500: "The server failed on this request; its own output says why.",
    }

    def refuse(_: Request, error: Exception) -> Response:
        status, detail = getattr(error, "status_code", 500), getattr(error, "detail", "")
        return JSONResponse({"error": sentences.get(status, detail)}, status, getattr(error, "headers", None))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS, "worker"))
        batches = asyncio.create_task(service.batcher.run())
        yield
        batches.cancel()

    routes = [Route("/", service.answer_page), Route("/classify", service.answer_image, methods=["POST"])]
    for place in (model, f"{model}/versions/{served.version}"):
        routes += [
            Route(place, JSONResponse(format_status(served.version)), methods=["GET"]),
            Route(f"{place}/metadata", JSONResponse(served.metadata), methods=["GET"]),
            Route(f"{place}:predict", service.answer_predict, methods=["POST"]),
        ]
    # A page of another origin says so in Origin; one that had its name resolve to this machine (DNS rebinding) in Host.
    hosts = ["localhost", "127.0.0.1", "[::1]", host] if ipaddress.ip_address(host).is_loopback else ["*"]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
        Middleware(OriginMiddleware),
    ]
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: refuse, Exception: refuse},
        lifespan=lifespan,
    )


def make_config(served: ServedExport, training: TrainingImages | None, host: str) -> uvicorn.Config:
    """Return how the application is run; host is the numeric address that it listens on."""
    return uvicorn.Config(
        make_app(served, training, host),
        http="h11",
        ws="none",
        log_level="error",  # a request that is not HTTP is no news
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=[
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ],
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=5,
    )


def serve(served: ServedExport, training: TrainingImages | None, host: str, port: int) -> None:
    """Answer requests until the process is interrupted; raises UserError where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        # Connections inherit it; asyncio sets it only where the socket's protocol was named. Else each answer, headers
        # and body being written apart, waits 40 ms for the client's acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, OverflowError) as error:
        reason = describe_error(error).partition(" (")[0].rstrip(".")
        raise UserError(f"Cannot listen on {host}, port {port} ({reason}): give another --port or --host.") from error
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"serving '{printable(served.name)}', version {served.version}, at {address} (Ctrl-C ends it)", flush=True)
    with suppress(KeyboardInterrupt):  # uvicorn has ended in order, and passes the signal on
        uvicorn.Server(make_config(served, training, host)).run(sockets=[listener])
