"""What the pages show, as plain values for their templates. Pure; nothing here is HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from offload_sites.catalog import Catalog, Profile
from offload_sites.jobs import AgentState, JobState, SiteHealth, SiteState
from offload_sites.ledger import JobRecord, Usage, Waits
from offload_sites.units import render_duration, render_memory

__all__ = [
    "JobView",
    "ProblemView",
    "ProfileView",
    "SiteView",
    "Word",
    "job_views",
    "problem_views",
    "profile_views",
    "site_views",
]

_DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Word:
    """A state for people: icon, tone and word, any one of which may be lost."""

    icon: str
    tone: str
    text: str


_SITE = {
    SiteState.UP: Word("ok", "ok", "Up"),
    SiteState.FULL: Word("full", "wait", "Full"),
    SiteState.DEGRADED: Word("warn", "warn", "Degraded"),
    SiteState.DOWN: Word("bad", "bad", "Down"),
    SiteState.NO_ANSWER: Word("unknown", "wait", "No answer"),
}
_JOB = {
    JobState.QUEUED: Word("queued", "wait", "Queued"),
    JobState.HELD: Word("held", "warn", "Held"),
    JobState.RUNNING: Word("ok", "ok", "Running"),
    JobState.COMPLETED: Word("ended", "wait", "Ended"),
    JobState.FAILED: Word("bad", "bad", "Failed"),
    JobState.CANCELED: Word("canceled", "wait", "Canceled"),
    JobState.TIMED_OUT: Word("timeup", "wait", "Time is up"),
    JobState.UNKNOWN: Word("unknown", "wait", "No answer"),
}
_AGENT = {
    AgentState.CONNECTED: Word("ok", "ok", "Connected"),
    AgentState.LOST: Word("lost", "wait", "Connection lost"),
    AgentState.ABSENT: Word("", "wait", _DASH),
}
_SUBMITTED = Word("queued", "wait", "Submitted")


@dataclass(frozen=True)
class SiteView:
    """One site. Numbers are texts already; a dash stands for nothing."""

    name: str
    title: str
    kind: str
    state: Word
    reason: str
    sessions: str
    workers: str
    jobs_running: str
    jobs_waiting: str
    cpus: str
    gpus: str
    waits: str


def site_views(
    catalog: Catalog,
    health: Mapping[str, SiteHealth],
    usage: Sequence[Usage],
    waits: Mapping[tuple[str, str], Waits],
) -> list[SiteView]:
    """Return all sites with how they are, what runs there, and how long jobs waited."""

    def total(rows: Iterable[Usage], what: str) -> int:
        return sum(int(getattr(row, what)) for row in rows)

    views = []
    for name, site in catalog.sites.items():
        here = [row for row in usage if row.site == name]
        sessions = [row for row in here if row.purpose == "session"]
        known = health.get(name, SiteHealth(SiteState.NO_ANSWER, "not asked yet"))
        views.append(
            SiteView(
                name=name,
                title=site.title,
                kind=site.kind,
                state=_SITE[known.state],
                reason=known.reason,
                sessions=_number(total(sessions, "jobs")),
                workers=_number(total(here, "workers")),
                jobs_running=_number(total(here, "connected")),
                jobs_waiting=_number(total(here, "jobs") - total(here, "connected")),
                cpus=_number(total(here, "cpus")),
                gpus=_number(total(here, "gpus")),
                waits=_site_waits(name, waits),
            )
        )
    return views


def _site_waits(site: str, waits: Mapping[tuple[str, str], Waits]) -> str:
    """Return the range of the usual waits of all profiles at a site."""
    known = [w for (_, where), w in waits.items() if where == site and w.p50 is not None]
    if not known:
        return "not known yet"
    low = min(w.p50 for w in known if w.p50 is not None)
    high = max(w.p90 for w in known if w.p90 is not None)
    return f"{render_duration(low)} to {render_duration(high)}"


@dataclass(frozen=True)
class ProfileView:
    """One profile."""

    name: str
    title: str
    sites: str
    purposes: str
    cpus: str
    memory: str
    gpus: str
    who: str
    users: str
    jobs: str


def profile_views(catalog: Catalog, usage: Sequence[Usage]) -> list[ProfileView]:
    """Return all profiles with who may use them, and who does now."""
    return [_profile(catalog, name, one, usage) for name, one in catalog.profiles.items()]


def _profile(catalog: Catalog, name: str, profile: Profile, usage: Sequence[Usage]) -> ProfileView:
    rows = [row for row in usage if row.profile == name]
    cpus = profile.resources.cpus.choices
    sizes = [profile.resources.memory.bytes_for(number) for number in cpus]
    return ProfileView(
        name=name,
        title=profile.title,
        sites=", ".join(catalog.sites[site].title for site in profile.sites),
        purposes=", ".join(profile.purposes),
        cpus=_range([str(number) for number in sorted(cpus)]),
        memory=_range([render_memory(size) for size in sorted(sizes)]),
        gpus=_number(profile.resources.gpus),
        who=", ".join(f"group {group}" for group in profile.groups) or "everybody",
        users=_number(len({row.user for row in rows})),
        jobs=_number(sum(row.jobs for row in rows)),
    )


@dataclass(frozen=True)
class JobView:
    """One job, with both axes. `group` is its cluster or server; `cluster` its id if it has logs."""

    key: str
    handle: str
    user: str
    kind: str
    profile: str
    site: str
    state: Word
    agent: Word
    reason: str
    age: str
    when: str
    group: str
    cluster: str


def job_views(
    jobs: Sequence[JobRecord],
    titles: Mapping[str, str],
    clusters: Iterable[str],
    now: datetime,
) -> list[JobView]:
    """Return jobs as rows.

    Parameters
    ----------
    jobs : sequence of JobRecord
        From the ledger.
    titles : mapping
        Name of a site or profile to its title.
    clusters : iterable of str
        Ids of the clusters that are there: their jobs have logs.
    now : datetime
        Aware UTC.
    """
    there = set(clusters)
    return [
        JobView(
            key=job.key,
            handle=job.handle.partition(":")[2] or job.key,
            user=job.user,
            kind="session" if job.purpose == "session" else f"workers, {job.workers}",
            profile=titles.get(job.profile, job.profile),
            site=titles.get(job.site, job.site),
            state=_SUBMITTED
            if job.state is JobState.UNKNOWN and not job.handle
            else _JOB[job.state],
            agent=_AGENT[job.agent] if not job.state.ended else _AGENT[AgentState.ABSENT],
            reason=job.reason,
            age=render_duration(now - (job.ended or job.submitted)),
            when=(job.ended or job.submitted).isoformat(timespec="seconds"),
            group=job.group,
            cluster=job.group if job.group in there else "",
        )
        for job in jobs
    ]


@dataclass(frozen=True)
class ProblemView:
    """One problem of a catalog; line 0 if it is of the file as a whole."""

    line: int
    path: str
    message: str


@dataclass(frozen=True)
class _Numbered:
    number: int
    text: str
    bad: bool = field(default=False)


_PROBLEM = re.compile(
    r"(?P<file>[^:]*):(?P<line>\d+): (?:(?P<path>[^\s:]+): )?(?P<message>.*)", re.S
)


def problem_views(problems: Iterable[str]) -> list[ProblemView]:
    """Return problems as `load` writes them, taken apart."""
    views = []
    for problem in problems:
        match = _PROBLEM.fullmatch(problem)
        if match is None:
            views.append(ProblemView(0, "", problem))
        else:
            views.append(ProblemView(int(match["line"]), match["path"] or "", match["message"]))
    return views


def numbered(text: str, problems: Iterable[ProblemView]) -> list[_Numbered]:
    """Return the lines of `text` with their numbers, and whether something is wrong there."""
    bad = {problem.line for problem in problems}
    return [
        _Numbered(number, line, number in bad)
        for number, line in enumerate(text.splitlines(), start=1)
    ]


def since(then: datetime, now: datetime) -> str:
    """Return how long ago something was."""
    return render_duration(max(now - then, timedelta(0)))


def _number(value: int) -> str:
    return f"{value:,}" if value else _DASH


def _range(values: Sequence[str]) -> str:
    return values[0] if values[0] == values[-1] else f"{values[0]}{_DASH}{values[-1]}"
