import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

from components.serve.batching import MAX_BATCH, Batcher


@asynccontextmanager
async def batching(compute):
    """Yield a batcher that runs until the block ends."""
    batcher = Batcher(compute)
    task = asyncio.create_task(batcher.run())
    yield batcher
    task.cancel()


def run_batches(items, compute):
    """Return the outcomes of one caller an item, or its error, all of them asking at the same moment."""

    async def run():
        async with batching(compute) as batcher:
            return await asyncio.gather(*(batcher.compute([item], [1]) for item in items), return_exceptions=True)

    return asyncio.run(run())


def test_callers_at_the_same_moment_share_batches_and_get_their_own_outcomes():
    sizes = []

    def compute(items):
        sizes.append(len(items))
        return [item + b"!" for item in items]

    items = [bytes([number]) for number in range(100)]
    assert run_batches(items, compute) == [[item + b"!"] for item in items]
    assert sum(sizes) == 100
    assert max(sizes) == MAX_BATCH
    assert len(sizes) <= 5  # one may begin before the others wait


def test_items_of_one_caller_keep_their_order_over_batches():
    async def run():
        async with batching(lambda items: [item * 2 for item in items]) as batcher:
            return await batcher.compute([bytes([number]) for number in range(70)], [1] * 70)

    assert asyncio.run(run()) == [bytes([number]) * 2 for number in range(70)]


def test_an_error_reaches_its_batch_and_the_next_is_computed():
    def compute(items):
        if b"bad" in items:
            raise ValueError("bad")
        return items

    async def run():
        async with batching(compute) as batcher:
            with pytest.raises(ValueError, match="bad"):
                await batcher.compute([b"bad"], [1])
            return await batcher.compute([b"good"], [1])

    assert asyncio.run(run()) == [b"good"]


def test_a_batch_that_has_its_pixels_takes_no_further_image(monkeypatch):
    monkeypatch.setattr("components.serve.batching.MAX_BATCH_PIXELS", 10)
    batches, release = [], threading.Event()

    def compute(items):
        release.wait(30)
        batches.append(items)
        return items

    async def run():
        async with batching(compute) as batcher:
            first = asyncio.create_task(batcher.compute([b"first"], [1]))
            await asyncio.sleep(0.01)
            rest = asyncio.create_task(batcher.compute([b"a", b"b", b"c", b"d", b"e"], [6, 3, 2, 11, 3]))
            await asyncio.sleep(0)
            release.set()
            return await asyncio.gather(first, rest)

    assert asyncio.run(run())[1] == [b"a", b"b", b"c", b"d", b"e"]
    assert batches == [[b"first"], [b"a", b"b", b"c"], [b"d"], [b"e"]]
