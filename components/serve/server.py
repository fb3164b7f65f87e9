"""Serve: an exported model over HTTP, as TensorFlow Serving's REST API and as a page for people."""

from __future__ import annotations

import asyncio
import functools
import secrets
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from components.errors import UserError
from components.images.check import CheckedImage, Limits, RejectedImage, count_pixels, inspect_image
from components.images.thumbnail import make_thumbnail
from components.pages.html import encode_uri, load_template
from components.predict.predict import TOP_K, Answer, describe_rejected, predict_each, rank_classes
from components.serve.batching import Batcher, QueueFull
from components.serve.connections import Connection
from components.serve.neighbours import TrainingImages
from components.serve.request_guard import Guard, name_hosts
from components.serve.served_export import ServedExport
from components.serve.tf_serving import MODEL_PATH, RefusedRequest, format_answers, format_status, parse_predict
from components.storage.tables import escape_name
from components.terminal.text import printable

MAX_BODY = 32 * 2**20
BODY_SECONDS = 60.0  # 32 MiB at 4.5 Mbit/s
# Ten of the largest images that are read, or 80 of a phone's: ten seconds of decoding.
MAX_PIXELS = 1_000_000_000
# Threads that parse, inspect and transcode, of which each may hold an image of 100 million pixels.
WORKERS = 2
# Bodies of all requests together that are held at once.
MAX_HELD = 8 * MAX_BODY
BUSY = "Too many requests wait: try again in a few seconds."


def make_app(served: ServedExport, training: TrainingImages | None, host: str) -> Starlette:
    """Return the application; host is the address that it listens on, '' for any."""
    service = Service(served, training)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS, "worker"))
        async with service.batcher:
            yield

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]  # which of them a path takes, answer_model tells
    return Starlette(
        routes=[
            Route("/", service.answer_page),
            Route("/classify", service.answer_image, methods=["POST"]),
            Route("/v1/models/{path:path}", service.answer_model, methods=methods),
        ],
        middleware=[Middleware(Guard, hosts=name_hosts(host))],
        exception_handlers={
            RefusedRequest: _answer_refused,
            QueueFull: _answer_busy,
            HTTPException: _answer_http,
            Exception: _answer_failed,
        },
        lifespan=lifespan,
    )


class Service:
    """The handlers of one model, and the batches and bodies that they share."""

    def __init__(self, served: ServedExport, training: TrainingImages | None):
        self._served = served
        self._training = training
        self._held = 0
        self.batcher = Batcher(functools.partial(predict_each, served.classifier.compute))

    async def answer_page(self, _: Request) -> Response:
        """The page: its one script bears the nonce that the policy asks for, nothing comes from elsewhere."""
        nonce = secrets.token_urlsafe(16)
        page = load_template("serve.html.j2").render(
            name=self._served.name,
            version=self._served.version,
            classes=len(self._served.classifier.labels),
            max_body=MAX_BODY,
            neighbours=self._training is not None,
            nonce=nonce,
        )
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})

    async def answer_model(self, request: Request) -> Response:
        """TensorFlow Serving's status, metadata and predict."""
        match = MODEL_PATH.fullmatch(request.path_params["path"])
        if not match:
            raise HTTPException(404)
        predicts = match["action"] == ":predict"
        if request.method not in (("POST",) if predicts else ("GET", "HEAD")):
            raise HTTPException(405, headers={"Allow": "POST" if predicts else "GET"})
        served = self._served
        if match["name"] != served.name:
            raise RefusedRequest(404, f"There is no model of this name here: ask for '{served.name}'.")
        if match["version"] not in (None, served.version):
            raise RefusedRequest(404, f"There is no such version of '{served.name}' here: ask for {served.version}.")
        if match["action"] is None:
            return JSONResponse(format_status(served.version))
        if not predicts:
            return JSONResponse(served.metadata)
        async with self._reading(request) as body:
            parsed = await asyncio.to_thread(parse_predict, body)
            answers = await self._predict(await asyncio.to_thread(_inspect_images, parsed.encoded))
        labels = [escape_name(label) for label in served.classifier.labels]
        return JSONResponse(await asyncio.to_thread(format_answers, answers, labels, parsed.columnar))

    async def answer_image(self, request: Request) -> Response:
        """What the page shows of one image, whose file is the body."""
        async with self._reading(request) as content:
            inspected = await asyncio.to_thread(_inspect_images, [content])
            (answer,) = await self._predict(inspected)
            thumbnail = await asyncio.to_thread(make_thumbnail, inspected[0].encoded)
            nearest = []
            if self._training:
                nearest = await asyncio.to_thread(self._training.find_nearest, inspected[0].encoded)
        ranked = rank_classes(answer.probabilities, TOP_K)
        labels = self._served.classifier.labels
        return JSONResponse(
            {
                "ranked": [
                    {"label": escape_name(labels[index]), "probability": float(answer.probabilities[index])}
                    for index in ranked
                ],
                "abstained": bool(answer.abstained),
                "picture": encode_uri(thumbnail) if thumbnail else "",
                "nearest": [
                    {**near._asdict(), "path": escape_name(near.path), "label": escape_name(near.label)}
                    for near in nearest
                ],
            }
        )

    async def _predict(self, images: list[CheckedImage]) -> list[Answer]:
        pixels = [count_pixels(image) for image in images]
        if sum(pixels) > MAX_PIXELS:
            raise RefusedRequest(413, f"The images have more than the {MAX_PIXELS:,} pixels allowed in a request.")
        outcomes = await self.batcher.compute([image.encoded for image in images], pixels)
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, str):
                raise _refuse(number, len(images), outcome)
        return outcomes

    @asynccontextmanager
    async def _reading(self, request: Request) -> AsyncIterator[bytes]:
        """Read the body, which counts as held until the block ends."""
        body = bytearray()

        async def read() -> int:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > 4 * MAX_BODY:
                    break
                if size > MAX_BODY:
                    continue  # read and dropped: a client that is cut off while it sends seldom sees the answer
                if self._held + len(chunk) > MAX_HELD:
                    raise RefusedRequest(503, BUSY)
                body.extend(chunk)
                self._held += len(chunk)
            return size

        try:
            if await asyncio.wait_for(read(), BODY_SECONDS) > MAX_BODY:
                raise RefusedRequest(413, f"The body has more than the {MAX_BODY:,} bytes allowed.")
            yield bytes(body)
        except ClientDisconnect as gone:
            raise RefusedRequest(400, "The client has gone.") from gone
        except TimeoutError as late:
            raise RefusedRequest(408, f"The body took longer than the {BODY_SECONDS:.0f} seconds allowed.") from late
        finally:
            self._held -= len(body)


def _inspect_images(contents: list[bytes]) -> list[CheckedImage]:
    """Return images as the model reads them; raises RefusedRequest for the first that is none or beyond the limits."""
    checked = []
    for number, content in enumerate(contents):
        try:
            checked.append(inspect_image(content, Limits()))
        except RejectedImage as rejected:
            raise _refuse(number, len(contents), describe_rejected(rejected)) from rejected
    return checked


def _refuse(number: int, images: int, reason: str) -> RefusedRequest:
    return RefusedRequest(400, f"{f'Image {number}' if images > 1 else 'The image'} cannot be read ({reason}).")


def _answer_refused(_: Request, error: Exception) -> Response:
    status, sentence = error.args
    return JSONResponse({"error": sentence}, status)


def _answer_busy(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": BUSY}, 503, {"Retry-After": "5"})


def _answer_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "There is nothing at this address.", 405: "This address does not take this method."}
    return JSONResponse({"error": sentences.get(error.status_code, error.detail)}, error.status_code, error.headers)


def _answer_failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "The server failed on this request; its own output says why."}, 500)


def make_config(served: ServedExport, training: TrainingImages | None, host: str) -> uvicorn.Config:
    """Return how the application is run: plain HTTP, and no client keeps it waiting."""
    return uvicorn.Config(
        make_app(served, training, host),
        http=Connection,
        ws="none",
        log_level="error",  # a request that is not HTTP is no news
        access_log=False,
        server_header=False,
        proxy_headers=False,
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
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0].rstrip(".")
        raise UserError(f"Cannot listen on {host}, port {port} ({reason}): give another --port or --host.") from error
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    name = printable(served.name)
    print(f"serving '{name}', version {served.version}, at {address} (Ctrl-C ends it)", flush=True)
    try:
        uvicorn.Server(make_config(served, training, host)).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has ended in order, and passes the signal on
        pass
    finally:
        listener.close()
