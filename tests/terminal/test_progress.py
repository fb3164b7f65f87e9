import io
import re

import pytest
from rich.console import Console

from components.terminal.progress import Progress

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


class Clock:
    """Stands still until it is put forward."""

    now = 0.0

    def __call__(self):
        return self.now


def draw(console, clock=None):
    """Return what the bar of a stage of 40 images looks like after 30 of them, ten every two seconds."""
    progress = Progress(console)
    with progress.stage("extract"):
        for done in (10, 20, 30):
            progress.report(done, 40, "images")
            if clock and done < 30:
                clock.now += 2
        progress._bars.refresh()
    return console.file.getvalue()


def terminal(**settings):
    return Console(file=io.StringIO(), force_terminal=True, width=120, **settings)


def test_a_bar_shows_what_is_done_the_rate_and_the_time_left(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    clock = Clock()
    output = draw(terminal(color_system="standard", get_time=clock), clock)
    assert "30/40 images" in output
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output).split("\r")
    last = [line for line in drawn if line.strip()][-1]
    assert last.split()[-4:] == ["5.0", "images/s", "0:00:04", "0:00:02"]
    assert COLOUR.search(output)


def test_no_color_leaves_the_bar_without_colours(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    output = draw(terminal(color_system="standard"))
    assert "30/40 images" in output and not COLOUR.search(output)


@pytest.mark.parametrize("console", [Console(file=io.StringIO()), terminal(quiet=True)])
def test_nothing_is_drawn_where_no_one_looks(console):
    assert draw(console) == ""


def test_items_of_unknown_number_are_counted_as_they_are_taken():
    clock = Clock()
    console = terminal(get_time=clock)
    progress = Progress(console)
    with progress.stage("predict"):
        assert list(progress.count(iter("abc"), "images")) == ["a", "b", "c"]
        progress._bars.refresh()
        assert "3 images" in console.file.getvalue()
        assert "images/s" not in console.file.getvalue()
        clock.now += 2
        progress._bars.refresh()
    assert "1.5 images/s" in console.file.getvalue()
    assert list(progress.count("ab", "images")) == ["a", "b"]  # outside of a stage too


@pytest.mark.parametrize("quiet", [False, True])
def test_a_notebook_gets_the_names_of_the_stages_and_no_bars(quiet, capsys):
    assert draw(Console(file=io.StringIO(), force_jupyter=True, quiet=quiet)) == ""
    assert capsys.readouterr().out == ("" if quiet else "extract ... ")
