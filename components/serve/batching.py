"""Batches of images that wait at the same moment: many callers, one computation at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

MAX_BATCH = 32
# A batch of so many pixels takes no further image: with the last one it decodes to 600 MB at most.
MAX_BATCH_PIXELS = 100_000_000


class Batcher:
    """Computes single images of many callers in batches, one batch after the other, while run() runs.

    compute maps N items, an image each, to N outcomes; an error of it reaches all callers of its batch.
    """

    def __init__(self, compute: Callable[[list[Any]], Sequence[Any]]):
        self._compute = compute
        # Items, how many pixels each has, and the future that takes its outcome.
        self._waiting: asyncio.Queue[tuple[Any, int, asyncio.Future[Any]]] = asyncio.Queue()

    async def compute(self, items: Sequence[Any], pixels: Sequence[int]) -> list[Any]:
        """Return the outcomes of items, in order; pixels tells how many each has."""
        futures: list[asyncio.Future[Any]] = [asyncio.Future() for _ in items]
        for waiting in zip(items, pixels, futures, strict=True):
            self._waiting.put_nowait(waiting)
        return await asyncio.gather(*futures)

    async def run(self) -> None:
        """Compute batches of the images that wait, until the task is cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while (
                len(batch) < MAX_BATCH
                and sum(pixels for _, pixels, _ in batch) < MAX_BATCH_PIXELS
                and not self._waiting.empty()
            ):
                batch.append(self._waiting.get_nowait())
            try:
                outcomes = await asyncio.to_thread(self._compute, [item for item, _, _ in batch])
            except Exception as error:
                outcomes = [error] * len(batch)
            for (_, _, future), outcome in zip(batch, outcomes, strict=True):
                if not future.done():  # else its caller was cancelled
                    (future.set_exception if isinstance(outcome, Exception) else future.set_result)(outcome)
