"""Who waits for workers reads one line that renews itself, or a line for each change in a log."""

import contextlib
import io
import re

import pytest

from dask_offload.progress import Progress
from offload_sites.jobs import JobState
from tests.unit.dask.samples import crew, job, snapshot, working

COLUMNS = 80
RENEW = "\r\x1b[K"


class Screen(io.StringIO):
    """What a terminal would have received."""

    def __init__(self, *, terminal):
        super().__init__()
        self._terminal = terminal

    def isatty(self):
        return self._terminal

    @property
    def lines(self):
        """The lines as they would stand there."""
        return [line.split(RENEW)[-1] for line in self.getvalue().split("\n")]


class Stage:
    def __init__(self, screen, wanted=8, **options):
        self.screen, self.now_s = screen, 1000.0
        with self.redirect():
            self.progress = Progress(wanted, clock=lambda: self.now_s, **options)

    @contextlib.contextmanager
    def redirect(self):
        # What is written to the other one is not what a person was meant to read.
        notebook = type(self.screen) is not Screen
        to, other = contextlib.redirect_stderr, contextlib.redirect_stdout
        with (other if notebook else to)(self.screen), (to if notebook else other)(io.StringIO()):
            yield

    def show(self, shown, after_s=1.0):
        self.now_s += after_s
        with self.redirect():
            self.progress.show(shown)

    def done(self, shown, registered):
        with self.redirect():
            self.progress.done(shown, registered)
        return self.screen.getvalue()


@pytest.fixture
def screen(monkeypatch, request):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    return Screen(terminal=getattr(request, "param", True))


either = pytest.mark.parametrize("screen", [True, False], indirect=True, ids=["terminal", "log"])
log_only = pytest.mark.parametrize("screen", [False], indirect=True, ids=["log"])

QUEUED = snapshot(job(1), job(2))
HALF = snapshot(working(1), job(2), workers=crew("c7-1"))
ALL = snapshot(working(1), working(2), workers=[*crew("c7-1"), *crew("c7-2")])
HELD = snapshot(
    job(1),
    job(
        2,
        JobState.HELD,
        reason="Its memory was used up.",
        said="memory usage exceeded request_memory of 4096 MB on slot1@wn042.na.infn.it",
        hint="choose a larger profile",
    ),
)


# --- both ----------------------------------------------------------------------------------------


@either
def test_what_is_over_within_a_second_needs_no_words(screen):
    stage = Stage(screen)
    stage.show(QUEUED, 0.5)
    stage.show(HALF, 0.4)
    assert stage.done(ALL, 8) == ""


@either
def test_quiet_means_quiet(screen):
    stage = Stage(screen, quiet=True)
    for shown in (QUEUED, HELD, ALL):
        stage.show(shown, 5.0)
    assert stage.done(ALL, 8) == ""


@either
def test_waiting_ends_with_one_whole_line_that_says_how_it_ended(screen):
    stage = Stage(screen)
    stage.show(QUEUED, 2.0)
    stage.show(ALL, 10.0)
    assert stage.done(ALL, 8).endswith("alice-1 8/8 working after 12 s: 8 RAC Naples\n")
    assert screen.lines[-1] == ""


@either
def test_waiting_that_was_given_up_ends_with_a_newline_too(screen):
    stage = Stage(screen)
    stage.show(QUEUED, 2.0)
    assert stage.done(QUEUED, 0).endswith("alice-1 0/8 working after 2 s\n")


@either
def test_the_reason_of_a_held_job_is_said_once_with_advice(screen):
    stage = Stage(screen)
    for _ in range(5):
        stage.show(HELD)
    text = " ".join(" ".join(screen.lines).split())
    assert text.count("held: 1 job with 4 workers is held at RAC Naples") == 1
    assert '4096 MB on slot1@wn042.na.infn.it". Choose a larger profile.' in text


@either
def test_a_second_reason_is_said_as_well(screen):
    stage = Stage(screen)
    stage.show(HELD)
    stage.show(snapshot(job(2, JobState.HELD, reason="No credential.")))
    text = screen.getvalue()
    assert text.index("Its memory was used up.") < text.index("No credential.")


# --- a terminal ----------------------------------------------------------------------------------


def test_a_terminal_shows_one_line_that_renews_itself(screen):
    stage = Stage(screen)
    for shown in (QUEUED, QUEUED, HALF, ALL):
        stage.show(shown)
    assert "\n" not in screen.getvalue()
    assert screen.getvalue().count(RENEW) == 4
    assert screen.lines[-1].startswith("alice-1 8/8 [####")


def test_the_time_on_the_line_never_goes_back(screen):
    stage = Stage(screen)
    for shown in (QUEUED, HALF, QUEUED, ALL):
        stage.show(shown, 40.0)
    assert re.findall(r"\d:\d\d", screen.getvalue()) == ["0:40", "1:20", "2:00", "2:40"]


def test_the_line_is_renewed_at_most_four_times_a_second(screen):
    stage = Stage(screen)
    stage.show(QUEUED, 1.0)
    for _ in range(100):
        stage.show(QUEUED, 0.01)
    assert 3 <= screen.getvalue().count(RENEW) <= 5


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_line_never_wraps_so_that_it_can_be_renewed(screen, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    stage = Stage(screen, wanted=100_000)
    stage.show(HALF)
    assert 0 < len(screen.lines[-1]) <= columns


def test_a_reason_stands_above_the_line_and_stays(screen):
    stage = Stage(screen)
    stage.show(HELD)
    stage.show(HALF)
    assert screen.lines[0].startswith("  held: 1 job")
    assert screen.lines[-1].startswith("alice-1 4/8")


# --- a log ---------------------------------------------------------------------------------------


@log_only
def test_a_log_gets_a_line_for_each_change_and_none_for_the_time_that_passes(screen):
    stage = Stage(screen)
    for shown in (QUEUED, QUEUED, QUEUED, HALF, HALF, ALL):
        stage.show(shown, 30.0)
    starts = [" ".join(line.split()[:2]) for line in screen.getvalue().splitlines()]
    assert starts == ["alice-1 0/8", "alice-1 4/8", "alice-1 8/8"]


@log_only
def test_a_log_gets_no_control_characters_and_whole_lines_only(screen):
    stage = Stage(screen)
    for shown in (QUEUED, HELD, ALL):
        stage.show(shown)
    text = stage.done(ALL, 8)
    assert text.endswith("\n")
    assert text.replace("\n", "").isprintable()
    assert text.isascii()


@log_only
def test_a_log_gets_a_line_every_few_seconds_however_many_workers_come_one_by_one(screen):
    stage = Stage(screen)
    for _ in range(10):
        stage.show(QUEUED, 0.5)
        stage.show(HALF, 0.5)
    assert len(screen.getvalue().splitlines()) == 2


@log_only
def test_a_reason_is_said_at_once(screen):
    stage = Stage(screen)
    stage.show(QUEUED)
    stage.show(HELD)
    assert "held: 1 job" in screen.getvalue()


# --- a notebook ----------------------------------------------------------------------------------


def test_a_notebook_shows_one_line_that_renews_itself_without_the_signs_of_terminals():
    screen = type("OutStream", (Screen,), {"__module__": "ipykernel.iostream"})(terminal=False)
    stage = Stage(screen)
    for shown in (QUEUED, HALF, ALL):
        stage.show(shown)
    text = stage.done(ALL, 8)
    assert "\x1b" not in text
    assert text.count("\n") == 1
    last = text.split("\r")[-1]
    assert last == "alice-1 8/8 working after 3 s: 8 RAC Naples\n"
