import asyncio
import threading

import pytest

from components.serve import batching
from components.serve.batching import MAX_BATCH, Batcher, QueueFull


def run_batches(items, compute):
    """Return the outcomes of one caller an item, or its error, all of them asking at the same moment."""

    async def run():
        async with Batcher(compute) as batcher:
            return await asyncio.gather(*(batcher.compute([item], [1]) for item in items), return_exceptions=True)

    return asyncio.run(run())


def test_callers_at_the_same_moment_share_batches_and_get_their_own_outcomes():
    sizes, threads = [], set()

    def compute(items):
        sizes.append(len(items))
        threads.add(threading.get_ident())
        return [item + b"!" for item in items]

    items = [bytes([number]) for number in range(100)]
    assert run_batches(items, compute) == [[item + b"!"] for item in items]
    assert sum(sizes) == 100
    assert max(sizes) == MAX_BATCH
    assert len(sizes) <= 5  # one may begin before the others wait
    assert len(threads) == 1


def test_items_of_one_caller_keep_their_order_over_batches():
    async def run():
        async with Batcher(lambda items: [item * 2 for item in items]) as batcher:
            return await batcher.compute([bytes([number]) for number in range(70)], [1] * 70)

    assert asyncio.run(run()) == [bytes([number]) * 2 for number in range(70)]


def test_an_error_reaches_its_batch_and_the_next_is_computed():
    def compute(items):
        if b"bad" in items:
            raise ValueError("bad")
        return items

    async def run():
        async with Batcher(compute) as batcher:
            with pytest.raises(ValueError, match="bad"):
                await batcher.compute([b"bad"], [1])
            return await batcher.compute([b"good"], [1])

    assert asyncio.run(run()) == [b"good"]


def test_more_than_may_wait_is_refused_and_what_waits_is_answered(monkeypatch):
    monkeypatch.setattr(batching, "MAX_WAITING", 3)
    outcomes = run_batches([b"x"] * 5, lambda items: items)
    assert outcomes[:3] == [[b"x"]] * 3
    assert [type(outcome) for outcome in outcomes[3:]] == [QueueFull] * 2


def test_items_whose_caller_has_gone_are_not_computed():
    computed, release = [], threading.Event()

    def compute(items):
        computed.extend(items)
        release.wait(30)
        return items

    async def run():
        async with Batcher(compute) as batcher:
            first = asyncio.create_task(batcher.compute([b"first"], [1]))
            while not computed:
                await asyncio.sleep(0.001)
            gone = asyncio.create_task(batcher.compute([b"gone"], [1]))
            await asyncio.sleep(0)
            gone.cancel()
            last = asyncio.create_task(batcher.compute([b"last"], [1]))
            await asyncio.sleep(0)
            release.set()
            await asyncio.gather(first, last)

    asyncio.run(run())
    assert computed == [b"first", b"last"]


def test_a_batch_holds_no_more_pixels_than_allowed_unless_a_single_image_has_them(monkeypatch):
    monkeypatch.setattr(batching, "MAX_BATCH_PIXELS", 10)
    batches, release = [], threading.Event()

    def compute(items):
        release.wait(30)
        batches.append(items)
        return items

    async def run():
        async with Batcher(compute) as batcher:
            first = asyncio.create_task(batcher.compute([b"first"], [1]))
            await asyncio.sleep(0.01)
            rest = asyncio.create_task(batcher.compute([b"a", b"b", b"c", b"d", b"e"], [6, 4, 1, 11, 3]))
            await asyncio.sleep(0)
            release.set()
            return await asyncio.gather(first, rest)

    assert asyncio.run(run())[1] == [b"a", b"b", b"c", b"d", b"e"]
    assert batches == [[b"first"], [b"a", b"b"], [b"c"], [b"d"], [b"e"]]


def test_more_pixels_than_may_wait_are_refused_and_later_ones_are_not(monkeypatch):
    monkeypatch.setattr(batching, "MAX_WAITING_PIXELS", 10)

    async def run():
        async with Batcher(lambda items: items) as batcher:
            with pytest.raises(QueueFull):
                await batcher.compute([b"a", b"b"], [6, 5])
            return [await batcher.compute([b"a"], [10]) for _ in range(3)]

    assert asyncio.run(run()) == [[b"a"]] * 3
