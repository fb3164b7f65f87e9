"""Makespan: how long shards take on many workers, some of them slow and some lost, by simulation."""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import numpy as np


class Fleet(NamedTuple):
    """Workers, each with so many shards in hand at once; seconds until one works, slow ones, losses of one an hour."""

    workers: int
    slots: int = 1
    startup: float = 0.0
    slow_share: float = 0.0
    slowdown: float = 1.0
    losses_per_hour: float = 0.0


class Makespan(NamedTuple):
    """Seconds until the last shard is done: with nothing amiss, and the median and 90th percentile of simulations."""

    ideal: float
    median: float
    percentile_90: float


def simulate_makespan(
    shards: int, shard_seconds: float, spread: float, fleet: Fleet, draws: int, seed: int = 0
) -> Makespan:
    """Return the makespan of shards whose times are lognormal with the given mean; spread is the deviation of the log.

    A lognormal time is a product of many causes; it cannot be negative, and a few shards take much longer than most.
    """
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        seconds = shard_seconds * np.exp(random.normal(-(spread**2) / 2, spread, shards))
        found.append(run_shards(seconds, fleet, random))
    return Makespan(
        ideal_makespan(shards, shard_seconds, fleet), float(np.median(found)), float(np.percentile(found, 90))
    )


def ideal_makespan(shards: int, shard_seconds: float, fleet: Fleet) -> float:
    """Return the makespan of equal shards on workers of which none is slow and none is lost."""
    return fleet.startup + math.ceil(shards / (fleet.workers * fleet.slots)) * shard_seconds


def run_shards(seconds: np.ndarray, fleet: Fleet, random: np.random.Generator) -> float:
    """Return when the last of some shards is done, each taken in turn by the slot that is free first.

    A lost worker takes what is in its hands along: those shards start again, on whichever slot is free, while another
    worker starts in its place.
    """
    slowness = np.where(random.random(fleet.workers) < fleet.slow_share, fleet.slowdown, 1.0).tolist()
    losses = [_Losses(fleet, random) for _ in range(fleet.workers)]
    waiting = seconds.tolist()[::-1]
    returning: list[tuple[float, float]] = []  # when a lost shard is back, and its seconds
    # When a slot is free, its number, and how many losses its worker has had by then.
    free = [(fleet.startup, slot, 0) for slot in range(fleet.workers * fleet.slots)]
    done = 0.0
    while waiting or returning:
        now, slot, lost = free[0]
        worker = slot // fleet.slots
        loss = losses[worker].time(lost)
        while returning and returning[0][0] <= now:
            waiting.append(heapq.heappop(returning)[1])
        if loss <= now:  # lost while it had nothing to do
            heapq.heapreplace(free, (max(now, loss + fleet.startup), slot, lost + 1))
        elif not waiting:
            heapq.heapreplace(free, (returning[0][0], slot, lost))
        else:
            shard = waiting.pop()
            end = now + shard * slowness[worker]
            if end > loss:
                heapq.heappush(returning, (loss, shard))
                heapq.heapreplace(free, (loss + fleet.startup, slot, lost + 1))
            else:
                done = max(done, end)
                heapq.heapreplace(free, (end, slot, lost))
    return done


class _Losses:
    """When a worker and those that take its place are lost, drawn as far as they are asked for."""

    def __init__(self, fleet: Fleet, random: np.random.Generator):
        self._mean = 3600 / fleet.losses_per_hour if fleet.losses_per_hour else math.inf
        self._startup = fleet.startup
        self._random = random
        self._times: list[float] = []

    def time(self, number: int) -> float:
        if math.isinf(self._mean):
            return math.inf
        while len(self._times) <= number:
            started = (self._times[-1] if self._times else 0.0) + self._startup
            self._times.append(started + float(self._random.exponential(self._mean)))
        return self._times[number]
