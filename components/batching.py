"""Batches of what waits at the same moment: many callers, one thread that computes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

MAX_BATCH = 32
# Images waiting: at 30 a second, what two cores do, the last of them waits a minute.
MAX_WAITING = 2000


class QueueFull(Exception):
    """More images wait than MAX_WAITING."""


class Batcher:
    """Runs compute over single items of many callers, up to MAX_BATCH at once and one batch after the other.

    compute maps N items to N outcomes. Use it inside `async with`; an error of compute reaches those of its batch.
    """

    def __init__(self, compute: Callable[[list[bytes]], Sequence[Any]]):
        self._compute = compute
        self._waiting: asyncio.Queue[tuple[bytes, asyncio.Future[Any]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "model")

    async def __aenter__(self) -> Batcher:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def compute(self, items: Sequence[bytes]) -> list[Any]:
        """Return the outcomes of items, in order; raises QueueFull."""
        if self._waiting.qsize() + len(items) > MAX_WAITING:
            raise QueueFull
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        for pair in zip(items, futures):
            self._waiting.put_nowait(pair)
        return await asyncio.gather(*futures)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [pair for pair in batch if not pair[1].done()]  # whose caller has gone
            if not batch:
                continue
            try:
                outcomes = await loop.run_in_executor(self._thread, self._compute, [item for item, _ in batch])
            except Exception as error:
                outcomes = [error] * len(batch)
            for (_, future), outcome in zip(batch, outcomes):
                if future.done():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
