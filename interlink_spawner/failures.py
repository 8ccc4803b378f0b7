"""How a session ended, as its user reads it: what happened, who did it, what to do. Pure.

The site's and the job's own words stand beside our sentence, unchanged. Nothing here ever holds a
token, an environment, or anything of another user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from interlink_spawner.progress import Fact, Moment, Row, facts_of, rows_of
from interlink_spawner.session import Session, Stage, load_session
from interlink_spawner.wording import END_TAGS, Tag, resources_text
from offload_relay.protocol import EXIT_WALLTIME
from offload_sites.errors import (
    JobLimitError,
    JobRejectedError,
    NotAuthorizedError,
    OffloadError,
    SiteUnavailableError,
)
from offload_sites.jobs import JobState
from offload_sites.units import render_duration
from offload_sites.wording import sentence, shorten

__all__ = [
    "End",
    "Moved",
    "Refused",
    "SessionEnded",
    "ended_job",
    "ended_late",
    "ended_queue",
    "ended_refused",
    "ended_renamed",
    "ended_start",
    "load_end",
    "render_report",
]

_LOG_LINES = 40
_LOG_CHARS = 6000
_SAID_CHARS = 300
_REFUSED = Tag("bad", "Refused", "bad")
_GIVEN_UP = Tag("bad", "Given up", "bad")


@dataclass(frozen=True)
class End:
    """The end of a session that its user did not ask for.

    Parameters
    ----------
    session : Session
        What was known of it.
    at : datetime
        When it ended. Aware UTC.
    heading : str
        What happened, in the past tense, with who did it.
    lead : str
        What it means for the user.
    word : str
        The state that it ended in.
    note : str
        What stands beside that word.
    who : str
        Whose words `said` are; empty if they are our own.
    said : str
        What they said, word for word, or our sentence on why; empty if there is no more to say.
    todo : tuple of str
        What the user can do.
    retry : bool
        Whether the same thing may succeed if it is tried again.
    log : str
        The last lines of the job's log; empty if there are none.
    """

    session: Session
    at: datetime
    heading: str
    lead: str
    word: str
    note: str
    who: str
    said: str
    todo: tuple[str, ...]
    retry: bool
    log: str = ""

    @property
    def id(self) -> str:
        """What the user tells an administrator; the job's key begins with it."""
        return self.session.id

    @property
    def message(self) -> str:
        """All in a few sentences, for who starts servers by the API and sees no page."""
        told = self.said.rstrip(".").casefold() in self.heading.casefold()
        said = "" if told else shorten(self.said, _SAID_CHARS)
        if said and self.who:
            said = f"{self.who} says: {said}"
        return " ".join(filter(None, [f"{self.heading}.", said, *self.todo[:1]]))

    @property
    def moment(self) -> Moment:
        """When it ended, for pages."""
        return Moment(self.at)

    @property
    def tag(self) -> Tag:
        """How its state is shown."""
        known = {tag.word: tag for tag in (*END_TAGS.values(), _REFUSED, _GIVEN_UP)}
        return known.get(self.word, END_TAGS[JobState.FAILED])

    @property
    def rows(self) -> list[Row]:
        """How far it came."""
        row = Row(self.word, "now", self.tag, self.note, Moment(self.at))
        return list(rows_of(self.session, now=self.at, end=row))

    @property
    def facts(self) -> list[Fact]:
        """What was asked for."""
        session = self.session
        used = _used(session, self.at)
        time = render_duration(session.walltime) + (f", used {used}" if used else "")
        where = f" on {session.status.where}" if session.status.where else ""
        job = f"{session.handle.native_id}{where}" if session.handle else "none was created"
        kept = [f for f in facts_of(session, health=None) if f.name in ("Profile", "Image")]
        return [
            Fact("Site", session.site_title),
            *kept,
            Fact("Walltime", time),
            Fact("Job", job, mono=session.handle is not None),
            Fact("Report", self.id, mono=True),
        ]

    def with_log(self, log: str) -> End:
        """Return it with the last lines of `log`."""
        return replace(self, log="\n".join(log.splitlines()[-_LOG_LINES:])[-_LOG_CHARS:])

    def dump(self) -> dict[str, Any]:
        """Return it as JSON; `load_end` reads it."""
        plain = {name: value for name, value in vars(self).items() if name != "session"}
        return {
            **plain,
            "at": self.at.isoformat(),
            "todo": list(self.todo),
            "session": self.session.dump(),
        }


class SessionEnded(Exception):  # noqa: N818  # it is not always an error
    """A session is over, without its user having asked for it."""

    def __init__(self, end: End) -> None:
        super().__init__(end.heading)
        self.end = end


class Refused(SessionEnded):
    """Its site did not take it, and nothing of it is queued: another site may."""


class Moved(Exception):  # noqa: N818  # it is no error
    """A session waited too long, and its site has let it go: it is to be sent to another one."""

    def __init__(self, site: str, why: str) -> None:
        super().__init__(why)
        self.site = site
        self.why = why


def load_end(value: object) -> End | None:
    """Return the end that `End.dump` wrote; None if this release cannot read it."""
    if not isinstance(value, Mapping):
        return None
    session = load_session(value.get("session"))
    if session is None:
        return None
    try:
        return End(
            **{
                **value,
                "session": session,
                "at": datetime.fromisoformat(value["at"]).astimezone(UTC),
                "todo": tuple(value["todo"]),
            }
        )
    except (KeyError, TypeError, ValueError):
        return None


def ended_refused(session: Session, error: OffloadError, now: datetime) -> End:
    """Return the end of a session that its site has not taken."""
    refused = isinstance(error, (JobRejectedError, NotAuthorizedError))
    who = session.site_title
    hints = [error.hint] if error.hint else []
    if isinstance(error, NotAuthorizedError):
        heading, todo = f"{who} does not let you start jobs", hints or [_SIGN_IN]
    elif isinstance(error, JobLimitError):
        heading, todo = f"{who} takes no more jobs of yours at present", hints
    elif refused:
        heading = f"{who} refused the job"
        todo = [*hints, f"Trying the same again will not help before {who} allows it."]
    elif isinstance(error, SiteUnavailableError):
        heading = f"{who} did not answer"
        todo = [*hints, "Try again later, or choose a profile at another site."]
    else:
        heading, todo = "The server could not be started", hints or [_ASK]
    return End(
        session,
        now,
        heading=heading,
        lead=f"Your {session.title} server did not start. Nothing ran.",
        word="Refused" if refused else "Given up",
        note=f"By {who}" if refused else "",
        who="",
        said=sentence(error.message),
        todo=_sentences(todo),
        retry=error.transient or isinstance(error, JobLimitError),
    )


def ended_queue(session: Session, now: datetime) -> End:
    """Return the end of a session that waited for as long as its profile allows."""
    waited = render_duration(session.queue_budget)
    return End(
        session,
        now,
        heading=f"{session.site_title} did not start the job within {waited}",
        lead=f"Your {session.title} server did not start. Its job was taken out of the queue.",
        word="Given up",
        note=f"After {waited}, the most that this profile waits",
        **_words(session),
        todo=_sentences([session.status.hint, "Choose a smaller profile, or one at another site."]),
        retry=True,
    )


def ended_start(session: Session, limit_text: str, now: datetime) -> End:
    """Return the end of a session whose job runs while its server cannot be reached."""
    came = session.stage is Stage.LAB
    missing = "JupyterLab did not answer" if came else "no agent came from the job"
    hint = (
        "the log of the job may say why; try another image"
        if came
        else "nodes of this site may not be able to connect to this hub: tell an administrator"
    )
    return End(
        session,
        now,
        heading=f"The job ran at {session.site_title}, but {missing} within {limit_text}",
        lead=f"Your {session.title} server did not start. Its job was ended.",
        word="Given up",
        note=f"After {limit_text}",
        **_words(session),
        todo=_sentences([hint]),
        retry=True,
    )


def ended_late(session: Session, limit_text: str, now: datetime) -> End:
    """Return the end of a session that nobody can say anything of, past all that it may take."""
    site = session.site_title
    silent = f"{site} does not answer" if session.silent_since else "the job cannot be reached"
    return End(
        session,
        now,
        heading=f"Your server did not start within {limit_text}: {silent}",
        lead=f"Your {session.title} server did not start. Its job was ended, as far as possible.",
        word="Given up",
        note=f"After {limit_text}",
        **({"who": "", "said": sentence(session.silence)} if session.silence else _words(session)),
        todo=_sentences(["Try again later, or choose a profile at another site."]),
        retry=True,
    )


def ended_job(session: Session, now: datetime) -> End:
    """Return the end of a session whose job ended, before or after its server was ready."""
    status, agent = session.status, session.agent
    state = _state(session)
    # Of its end by the site an agent knows the signal, and no more.
    told = agent.ended if not (agent.was_terminated and status.state.ended) else ""
    reason = told or status.reason or "its job ended, and the site does not say why"
    ran = _used(session, now)
    if session.ready:
        what = f"Your server ended: {reason}"
        lead = f"{session.title} at {session.site_title} ran for {ran or 'a moment'}. {_FILES}"
    else:
        what = f"Your server did not start: {reason.removeprefix('it could not be started: ')}"
        lasted = f"ran for {ran}" if ran else "did not run"
        lead = f"{session.title} at {session.site_title}: the job {lasted}."
    if state is JobState.TIMED_OUT:
        what = f"Your server ended: its walltime of {render_duration(session.walltime)} was used up"
    if state is JobState.CANCELED and not agent.ended:
        what = f"{session.site_title} removed the job: {reason}"
    # A job's own words tell more than a site's "exit code 78". Our own stand in the heading.
    who, said = (session.site_title, status.said) if status.said else ("The job", agent.ended)
    return End(
        session,
        now,
        heading=what,
        lead=lead,
        word=END_TAGS[state].word,
        note=_exit_note(session),
        who=who,
        said=said,
        todo=_sentences([agent.hint or status.hint or _DEFAULT[state]]),
        retry=not (agent.hint or status.hint),
    )


def ended_renamed(session: Session, now: datetime) -> End:
    """Return the end of a session whose user has another name by now.

    Its server answers at the path that it was started with, and the hub leads to that of the new name.
    """
    return End(
        session,
        now,
        heading="Your server ended: its user has been renamed",
        lead=f"{session.title} at {session.site_title} was started for {session.user}, and cannot be "
        f"reached under another name. {_FILES}",
        word="Ended",
        note="",
        who="",
        said="",
        todo=_sentences(["start it again; ask for a new name while no server runs"]),
        retry=True,
    )


_SIGN_IN = "sign out and in again, then try once more"
_ASK = "tell an administrator, with the report"
_FILES = "Files in its work folder are gone. Results saved elsewhere are not touched."
_DEFAULT = {
    JobState.COMPLETED: "start it again if you still need it",
    JobState.FAILED: "look at the last lines of the log, then try again or choose another image",
    JobState.CANCELED: "start it again; if it is removed again, ask the site why, with the id of the job",
    JobState.TIMED_OUT: "start it again, with a longer walltime if the profile offers one",
}


def _state(session: Session) -> JobState:
    if session.agent.exit_code == EXIT_WALLTIME:
        return JobState.TIMED_OUT  # it ended itself before its site did, which saw an exit code
    if session.agent.was_terminated:
        return JobState.CANCELED
    if session.status.state.ended:
        return session.status.state
    return JobState.COMPLETED if session.agent.exit_code == 0 else JobState.FAILED


def _exit_note(session: Session) -> str:
    code = session.agent.exit_code if session.agent.ended else session.status.exit_code
    return f"Exit code {code}" if code else ""


def _used(session: Session, end: datetime) -> str:
    since = session.runs_since
    return render_duration(end - since) if since is not None and end > since else ""


def _words(session: Session) -> dict[str, str]:
    """Return `who` and `said` of a session's job: the site's words, or else ours."""
    status = session.status
    if status.said:
        return {"who": session.site_title, "said": status.said}
    return {"who": "", "said": sentence(status.reason)}


def _sentences(texts: list[str]) -> tuple[str, ...]:
    """Return texts as sentences, each once."""
    return tuple(dict.fromkeys(sentence(text) for text in texts if text))


def render_report(end: End) -> str:
    """Return all of it as plain text, for an administrator."""
    return "\n".join(_report_lines(end)) + "\n"


def _report_lines(end: End) -> Iterator[str]:
    session = end.session
    yield f"Report {end.id}"
    yield ""
    yield end.heading
    yield end.lead
    yield ""
    yield f"user        {session.user}"
    yield f"server      {session.server or '(default)'}"
    yield f"profile     {session.profile} ({resources_text(session.resources)})"
    yield f"image       {session.image}"
    yield f"site        {session.site}"
    yield f"job         {session.handle or 'none was created'} (key {session.key})"
    yield f"walltime    {render_duration(session.walltime)}"
    yield ""
    for row in end.rows:
        if row.since is not None:
            note = f"  {row.note}" if row.note else ""
            yield f"{row.since.at:%Y-%m-%d %H:%M:%S} UTC  {row.word}{note}"
    if end.said:
        yield from (
            "",
            f"{end.who} said:" if end.who else "Why:",
            *(f"  {line}" for line in end.said.splitlines()),
        )
    if end.todo:
        yield from ("", "What to do:", *(f"  {line}" for line in end.todo))
    if end.log:
        yield from ("", "Last lines of the log:", *(f"  {line}" for line in end.log.splitlines()))
