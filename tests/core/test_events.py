"""Long calls beside, and news at a walking pace."""

import threading
from types import SimpleNamespace

import pytest

from napari_tally.core import events
from napari_tally.core.events import beside, paced, run_to_end, saying


def test_a_call_beside_gives_what_it_gives():
    assert run_to_end(beside(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        run_to_end(beside(divmod, 7, 0))


def test_meanwhile_there_are_moments_to_walk_away(monkeypatch):
    monkeypatch.setattr(events, "_BREATH", 0.001)
    go = threading.Event()
    work = beside(go.wait)
    next(work)
    next(work)
    work.close()  # does not wait for the end
    go.set()


def test_who_writes_is_told_to_stop_and_awaited(monkeypatch):
    monkeypatch.setattr(events, "_BREATH", 0.001)
    stop, ended = threading.Event(), []

    def write():
        stop.wait()
        ended.append(True)

    work = beside(write, stop=stop)
    next(work)
    work.close()
    assert ended == [True]


def test_news_come_at_a_walking_pace(monkeypatch):
    def work():
        yield from range(1000)
        return "result"

    clock = iter(range(10**6))
    monkeypatch.setattr(events, "time", SimpleNamespace(monotonic=lambda: next(clock) / 1000))
    news = []
    assert run_to_end(saying(paced(work()), "goes on"), news.append) == "result"
    assert news == ["goes on"] * len(news)
    assert 5 < len(news) < 30
