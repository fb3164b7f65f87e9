"""Batches of what waits at the same moment: many callers, one thread that computes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

MAX_BATCH = 32
# What a batch holds decoded, unless a single image has more: 300 MB.
MAX_BATCH_PIXELS = 100_000_000
# Images waiting: at 30 a second, what two cores do, the last of them waits a minute; as it does behind so many pixels.
MAX_WAITING = 2000
MAX_WAITING_PIXELS = 4_000_000_000


class QueueFull(Exception):
    """More images wait than MAX_WAITING, or more pixels."""


class Waiting(NamedTuple):
    """An encoded image, its number of pixels, and where its outcome is waited for."""

    item: bytes
    pixels: int
    future: asyncio.Future[Any]


class Batcher:
    """Runs compute over single images of many callers, up to MAX_BATCH at once and one batch after the other.

    compute maps N items to N outcomes. Use it inside `async with`; an error of compute reaches those of its batch.
    """

    def __init__(self, compute: Callable[[list[bytes]], Sequence[Any]]):
        self._compute = compute
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue()
        self._pixels = 0  # of all that wait
        self._thread = ThreadPoolExecutor(1, "model")

    async def __aenter__(self) -> Batcher:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def compute(self, items: Sequence[bytes], pixels: Sequence[int]) -> list[Any]:
        """Return the outcomes of encoded images, in order; pixels tells how many each has; raises QueueFull."""
        if self._waiting.qsize() + len(items) > MAX_WAITING or self._pixels + sum(pixels) > MAX_WAITING_PIXELS:
            raise QueueFull
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        for waiting in map(Waiting, items, pixels, futures):
            self._waiting.put_nowait(waiting)
            self._pixels += waiting.pixels
        return await asyncio.gather(*futures)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        following: Waiting | None = None  # one that a batch had no room for
        while True:
            batch = [following or await self._waiting.get()]
            following = None
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                following = self._waiting.get_nowait()
                if sum(waiting.pixels for waiting in batch) + following.pixels > MAX_BATCH_PIXELS:
                    break
                batch.append(following)
                following = None
            self._pixels -= sum(waiting.pixels for waiting in batch)
            batch = [waiting for waiting in batch if not waiting.future.done()]  # whose caller has gone
            if not batch:
                continue
            try:
                items = [waiting.item for waiting in batch]
                outcomes = await loop.run_in_executor(self._thread, self._compute, items)
            except Exception as error:
                outcomes = [error] * len(batch)
            for (_, _, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
