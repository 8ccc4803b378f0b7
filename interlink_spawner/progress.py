"""What the page of a waiting session shows, from what is known of it. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from interlink_spawner.session import Session, Stage
from interlink_spawner.wording import (
    Tag,
    render_range,
    resources_text,
    site_tag,
    wait_text,
)
from offload_sites.jobs import AgentState, SiteHealth, SiteState
from offload_sites.ledger_records import Waits
from offload_sites.units import render_duration

__all__ = [
    "Elapsed",
    "Fact",
    "Lead",
    "Moment",
    "Progress",
    "Row",
    "Says",
    "Scale",
    "facts_of",
    "progress_of",
    "rows_of",
]

_WORDS = {
    Stage.SUBMITTED: "Submitted",
    Stage.QUEUED: "Queued",
    Stage.HELD: "Held",
    Stage.STARTING: "Starting",
    Stage.CONNECTED: "Agent connected",
    Stage.LAB: "JupyterLab",
}
_TAGS = {
    Stage.SUBMITTED: Tag("queued", "Submitted", "wait"),
    Stage.QUEUED: Tag("queued", "Queued", "wait"),
    Stage.HELD: Tag("held", "Held", "warn"),
    Stage.STARTING: Tag("starting", "Starting", "ok"),
    Stage.CONNECTED: Tag("ok", "Agent connected", "ok"),
    Stage.LAB: Tag("starting", "JupyterLab", "ok"),
}
_SILENT = Tag("unknown", "No answer", "wait")
_LOST = Tag("lost", "Connection lost", "wait")
_TODO = Tag("todo", "", "wait")
_DONE = Tag("ok", "", "ok")
_NO_WAITS = Waits()
#: What the hub's own progress bar would show; nobody reads it on our page.
_PERCENT = {
    Stage.SUBMITTED: 5,
    Stage.QUEUED: 15,
    Stage.HELD: 15,
    Stage.STARTING: 50,
    Stage.CONNECTED: 75,
    Stage.LAB: 85,
}


@dataclass(frozen=True)
class Moment:
    """A time, as a page writes it: `text` in UTC, for a script that knows the reader's zone."""

    at: datetime

    @property
    def iso(self) -> str:
        """For a `datetime` attribute."""
        return self.at.isoformat(timespec="milliseconds")

    @property
    def text(self) -> str:
        """For readers without a script."""
        return f"{self.at:%H:%M:%S}"


@dataclass(frozen=True)
class Elapsed:
    """How long something has gone on, at the moment of writing; a script lets it go on."""

    since: Moment
    text: str

    @classmethod
    def of(cls, since: datetime, now: datetime) -> Elapsed:
        """Return the time from `since` to `now`."""
        return cls(Moment(since), render_duration(now - since))


@dataclass(frozen=True)
class Lead:
    """A sentence with a time that goes on between its two parts."""

    before: str
    elapsed: Elapsed | None = None
    after: str = ""


@dataclass(frozen=True)
class Scale:
    """How long it has waited, beside how long others did; positions in percent of the bar."""

    past: float
    half: float
    most: float
    half_text: str
    most_text: str
    label: str


@dataclass(frozen=True)
class Row:
    """One stage. `mark` is `done`, `now` or `todo`; what goes on has `elapsed` in place of `took`."""

    word: str
    mark: str
    tag: Tag
    note: str = ""
    since: Moment | None = None
    took: str = ""
    elapsed: Elapsed | None = None
    scale: Scale | None = None


@dataclass(frozen=True)
class Fact:
    """One line beside the stages; `time` stands between its two texts."""

    name: str
    text: str
    time: Moment | None = None
    after: str = ""
    tag: Tag | None = None
    mono: bool = False


@dataclass(frozen=True)
class Says:
    """The site's own words, if there are any, with our sentence on them."""

    who: str
    text: str
    heard: Elapsed | None
    silent: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Progress:
    """All that the page shows.

    Parameters
    ----------
    state : str
        Changes when the state does, and not with the time.
    """

    state: str
    short: str
    heading: str
    lead: Lead
    note: tuple[str, str] | None
    rows: tuple[Row, ...]
    facts: tuple[Fact, ...]
    says: Says | None
    percent: int
    can_leave: bool
    asks_before_cancel: bool


def progress_of(
    session: Session, *, now: datetime, waits: Waits, health: SiteHealth | None, retry_s: float
) -> Progress:
    """Return what the page of a session that is not ready shows.

    Parameters
    ----------
    session : Session
        What is known of it.
    now : datetime
        Aware UTC.
    waits : Waits
        How long others with its profile waited at its site.
    health : SiteHealth or None
        How its site is; None if nobody has asked.
    retry_s : float
        How often a silent site is asked, in seconds.
    """
    stage, silent = session.stage, session.silent_since is not None
    connected = session.agent.state is AgentState.CONNECTED
    short = "No answer" if silent and not connected else _short(session, now)
    state = f"{stage.value} {session.agent.state.value} {silent} {session.status.reason}"
    return Progress(
        state=state,
        short=f"{short} · {session.title}",
        heading=_heading(session),
        lead=_lead(session, waits, now),
        note=_note(session, retry_s),
        rows=tuple(rows_of(session, now=now, waits=waits)),
        facts=tuple(facts_of(session, health=health)),
        says=_says(session, now),
        percent=_PERCENT[stage],
        can_leave=stage in (Stage.SUBMITTED, Stage.QUEUED, Stage.HELD, Stage.STARTING),
        asks_before_cancel=connected,
    )


def _short(session: Session, now: datetime) -> str:
    word = _TAGS[session.stage].word
    if session.stage is not Stage.QUEUED:
        return word
    minutes = int((now - session.marks[Stage.QUEUED]).total_seconds()) // 60
    return f"{word} {render_duration(timedelta(minutes=minutes))}" if minutes else word


def _heading(session: Session) -> str:
    what = f"{session.title} at {session.site_title}"
    if session.stage is Stage.HELD:
        return f"Held: {what}"
    if session.stage in (Stage.SUBMITTED, Stage.QUEUED):
        return f"Waiting for {what}"
    return f"Starting {what}"


def _lead(session: Session, waits: Waits, now: datetime) -> Lead:
    site = session.site_title

    def timed(before: str, since: datetime | None, after: str) -> Lead:
        return Lead(before, Elapsed.of(since or now, now), after)

    if session.agent.state is AgentState.LOST:
        lost = session.agent.since
        return timed("Connection lost for ", lost, ". Its agent comes back by itself.")
    if session.agent.state is AgentState.CONNECTED:
        return Lead("Agent connected. This page opens JupyterLab by itself.")
    if session.silent_since is not None and session.handle is None:
        return timed(f"No answer from {site} for ", session.silent_since, ". We go on asking.")
    if session.silent_since is not None:
        return timed(
            f"No answer from {site} for ", session.silent_since, ". Your job keeps its place."
        )
    since = session.marks.get(session.stage, session.asked)
    if session.stage is Stage.HELD:
        return timed(f"{site} has held the job for ", since, ".")
    if session.stage is Stage.STARTING:
        where = f" on {session.status.where}" if session.status.where else ""
        return timed(f"The job has run{where} for ", since, ". Its agent connects next.")
    if session.stage is Stage.SUBMITTED:
        return Lead(f"The job is being handed to {site}.")
    return timed("Queued for ", since, f"{_longer(session, waits, now)}.")


def _longer(session: Session, waits: Waits, now: datetime) -> str:
    """Return what a wait of this length means, as the end of a sentence."""
    if waits.p90 is None:
        return ". How long this takes is not known yet"
    if now - session.asked > waits.p90:
        return f", longer than usual. {wait_text(waits)}"
    return f". {wait_text(waits)}"


def _note(session: Session, retry_s: float) -> tuple[str, str] | None:
    if session.agent.state is AgentState.CONNECTED:
        return None
    if session.leaving:
        return (
            f"{session.leaving}.",
            "It is sent there as soon as its first site has let it go, so it never runs twice.",
        )
    if session.silent_since is None:
        return (f"{session.came}.", "") if session.came else None
    return (
        f"We ask again every {retry_s:.0f} s. Nothing is lost and nothing is submitted twice.",
        "If the job starts meanwhile, its agent connects here directly, and this page goes on.",
    )


def rows_of(
    session: Session, *, now: datetime, waits: Waits = _NO_WAITS, end: Row | None = None
) -> Iterator[Row]:
    """Yield the stages of a session, the coming ones too.

    Parameters
    ----------
    session, now, waits
        As for `progress_of`.
    end : Row or None
        How it ended; stands after what it had reached.
    """
    marks, current = session.marks, session.stage
    seen = [stage for stage in Stage if stage is not Stage.HELD or stage in marks]
    reached = [stage for stage in seen if stage in marks]
    if end is not None and session.ready is None and current is Stage.LAB:
        reached.remove(Stage.LAB)  # it was tried, and never there
    over = [marks[stage] for stage in reached[1:]] + [end.since.at if end and end.since else now]
    for stage, until in zip(reached, over, strict=True):
        if stage is current and end is None:
            yield _now(session, stage, waits, now)
        else:
            took = render_duration(until - marks[stage])
            yield Row(_WORDS[stage], "done", _DONE, since=Moment(marks[stage]), took=took)
    if end is not None:
        yield end
    for stage in seen:
        if stage not in reached:
            yield Row(_WORDS[stage], "todo", _TODO)


def _now(session: Session, stage: Stage, waits: Waits, now: datetime) -> Row:
    tag, note = _TAGS[stage], session.status.reason
    if session.agent.state is AgentState.LOST:
        tag, note = _LOST, "Waiting for its agent to come back"
    elif stage is Stage.LAB:
        note = "Waiting for its first answer"
    elif session.silent_since is not None:
        tag, note = _SILENT, session.silence
    waiting = stage in (Stage.SUBMITTED, Stage.QUEUED)
    scale = _scale(now - session.asked, waits) if waiting else None
    since = session.marks[stage]
    return Row(
        _WORDS[stage],
        "now",
        tag,
        note[:1].upper() + note[1:],
        Moment(since),
        elapsed=Elapsed.of(since, now),
        scale=scale,
    )


def _scale(waited: timedelta, waits: Waits) -> Scale | None:
    if waits.p50 is None or waits.p90 is None or not waits.p90:
        return None
    whole = waits.p90 / 0.86  # the scale ends a little after nine in ten

    def at(time: timedelta) -> float:
        return round(min(100.0, 100 * (time / whole)), 1)

    half, most = (render_range(time, time) for time in (waits.p50, waits.p90))
    return Scale(
        past=at(waited),
        half=at(waits.p50),
        most=at(waits.p90),
        half_text=half,
        most_text=most,
        label=f"Waited {render_duration(waited)}. Half of such jobs start within {half}, "
        f"9 of 10 within {most}.",
    )


def facts_of(session: Session, *, health: SiteHealth | None) -> Iterator[Fact]:
    """Yield what was asked for, where, and when it ends."""
    if session.silent_since is not None:
        health = SiteHealth(SiteState.NO_ANSWER)
    # "Not asked yet" is no news of a site at which a job is.
    yield Fact("Site", session.site_title, tag=site_tag(health) if health else None)
    yield Fact("Profile", f"{session.title}, {resources_text(session.resources)}")
    yield Fact("Image", session.image, mono=True)
    yield Fact("Walltime", f"{render_duration(session.walltime)} from its start")
    if session.ends_at is not None:
        yield Fact("Ends", "at ", Moment(session.ends_at))
    else:
        yield Fact("Gives up", "at ", Moment(session.queue_until), " if still queued")
    yield Fact("Job", session.handle.native_id if session.handle else "–", mono=True)


def _says(session: Session, now: datetime) -> Says | None:
    said, hint = session.status.said, session.status.hint
    if not said and not hint:
        return None
    return Says(
        session.site_title,
        said,
        Elapsed.of(session.heard, now) if session.heard else None,
        silent=session.silent_since is not None,
        hint=hint,
    )
