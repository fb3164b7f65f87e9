import pytest

from components.serve import request_guard
from components.serve.request_guard import Guard, Rate

REFUSED = 429


def test_an_address_may_ask_so_often_a_second_and_a_few_times_more_at_once():
    rate = Rate(per_second=10, at_once=5)
    assert [rate.allows("a", 100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert rate.allows("b", 100.0)
    assert [rate.allows("a", 100.1) for _ in range(2)] == [True, False]
    assert sum(rate.allows("a", 200 + step / 100) for step in range(1000)) == pytest.approx(10 * 10 + 5, abs=2)


def test_only_so_many_addresses_are_remembered(monkeypatch):
    monkeypatch.setattr(request_guard, "MAX_ADDRESSES", 3)
    rate = Rate(per_second=1, at_once=1)
    for address in "abcd":
        assert rate.allows(address, 0.0)
    assert rate.allows("a", 0.0)  # forgotten
    assert not rate.allows("d", 0.0)
    assert len(rate._due) == 3


def test_one_request_too_many_is_429(monkeypatch):
    import asyncio

    monkeypatch.setattr(request_guard, "REQUESTS_AT_ONCE", 2.0)
    monkeypatch.setattr(request_guard, "REQUESTS_PER_SECOND", 0.001)
    sent, answered = [], []

    async def app(scope, receive, send):
        answered.append(scope["client"])

    async def send(message):
        sent.append(message)

    async def ask():
        guard = Guard(app, set())
        for _ in range(3):
            await guard({"type": "http", "headers": [], "client": ("1.2.3.4", 5)}, None, send)

    asyncio.run(ask())
    assert len(answered) == 2
    assert sent[0]["status"] == REFUSED
    assert (b"retry-after", b"1") in sent[0]["headers"]
