"""All that is shown of a cluster, as plain data: made by its supervisor, drawn by `show`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from offload_sites.fleet_plan import FleetJob, Policy, Word, word_of
from offload_sites.fleet_view import FleetSnapshot
from offload_sites.jobs import JobState
from offload_sites.units import render_duration
from offload_sites.wording import sentence

__all__ = ["JobRow", "Note", "SiteRow", "Snapshot", "WorkerInfo", "make_snapshot"]

_MOST_NOTES = 4


@dataclass(frozen=True)
class WorkerInfo:
    """One registered worker; memory and bytes held in bytes."""

    name: str
    threads: int
    memory_bytes: int
    held_bytes: int = 0
    processing: int = 0

    @property
    def job(self) -> str:
        """Key of the job it runs in."""
        return self.name.rpartition("-")[0]


@dataclass(frozen=True)
class SiteRow:
    """Workers of one site by state, and what the working ones have."""

    name: str
    title: str
    working: int = 0
    starting: int = 0
    queued: int = 0
    held: int = 0
    lost: int = 0
    threads: int = 0
    memory_bytes: int = 0
    gpus: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.working + self.starting + self.queued + self.held + self.lost


@dataclass(frozen=True)
class JobRow:
    """One job. `since` is ISO 8601 in UTC; `word` as in `fleet_plan.Word`."""

    key: str
    site: str
    handle: str
    workers: int
    registered: int
    word: str
    reason: str
    said: str
    hint: str
    since: str
    where: str


@dataclass(frozen=True)
class Note:
    """Something to be read: `tone` (`bad`, `warn`, `wait`), sentence, the site's words, advice."""

    tone: str
    icon: str
    head: str
    text: str = ""
    said: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A cluster at one moment."""

    name: str
    version: int
    wanted: int
    title: str
    image: str
    sites: tuple[SiteRow, ...] = ()
    jobs: tuple[JobRow, ...] = ()
    notes: tuple[Note, ...] = ()
    stopped: str = ""
    adaptive: tuple[int, int] | None = None
    bytes_through_relay: int = 0
    gpus_per_worker: int = 0
    workers_per_job: int = 1

    def count(self, word: str) -> int:
        """Return how many workers are in the state `word` (`working`, `queued`, …)."""
        return sum(getattr(site, word) for site in self.sites)

    @property
    def total(self) -> int:
        """All workers, in whatever state."""
        return sum(site.total for site in self.sites)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Snapshot:
        """Return what `to_json` gave."""
        adaptive = value["adaptive"]
        return cls(
            **{
                **value,
                "sites": tuple(SiteRow(**row) for row in value["sites"]),
                "jobs": tuple(JobRow(**row) for row in value["jobs"]),
                "notes": tuple(Note(**row) for row in value["notes"]),
                "adaptive": tuple(adaptive) if adaptive else None,
            }
        )


@dataclass(frozen=True)
class _Place:
    title: str
    counts: Counter[str] = field(default_factory=Counter)
    workers: list[WorkerInfo] = field(default_factory=list)


def make_snapshot(
    base: Snapshot,
    fleet: FleetSnapshot,
    workers: Sequence[WorkerInfo],
    titles: Mapping[str, str],
    *,
    trouble: str = "",
) -> Snapshot:
    """Return `base` with what the fleet, the scheduler and the relay say at this moment.

    Parameters
    ----------
    base : Snapshot
        What does not change (name, titles), and the counters of the moment.
    fleet : FleetSnapshot
        Jobs and troubles.
    workers : sequence of WorkerInfo
        What is registered at the scheduler.
    titles : mapping
        Site to the name that users read.
    trouble : str
        Why the relay cannot be reached; empty if it can.
    """
    by_job: dict[str, list[WorkerInfo]] = defaultdict(list)
    for worker in workers:
        by_job[worker.job].append(worker)
    places = {site: _Place(title) for site, title in titles.items()}
    rows = []
    for job in fleet.jobs:
        here = by_job.get(job.key, [])
        word = word_of(job)
        rows.append(_row(job, word, len(here)))
        place = places[job.site]
        if word not in (Word.ENDED, Word.LEAVING):
            place.counts.update(_counts(word, job.workers, len(here)))
            # The scheduler may list workers for a while after their connection has gone.
            if word is not Word.LOST:
                place.workers.extend(here)
    sites = tuple(
        SiteRow(
            name,
            place.title,
            **{word: place.counts[word] for word in _SHOWN},
            threads=sum(worker.threads for worker in place.workers),
            memory_bytes=sum(worker.memory_bytes for worker in place.workers),
            gpus=base.gpus_per_worker * len(place.workers),
        )
        for name, place in places.items()
    )
    values = {
        **base.__dict__,
        "wanted": fleet.wanted,
        "sites": sites,
        "jobs": tuple(rows),
        "notes": tuple(_notes(fleet, titles, trouble)),
        "stopped": fleet.stopped,
    }
    return Snapshot(**values)


_SHOWN = ("working", "starting", "queued", "held", "lost")


def _counts(word: Word, workers: int, registered: int) -> Counter[str]:
    if word is Word.LOST:
        return Counter(lost=workers)
    waiting = {Word.QUEUED: "queued", Word.SUBMITTED: "queued", Word.HELD: "held"}
    rest = waiting.get(word, "starting")
    return Counter({"working": registered}) + Counter({rest: max(0, workers - registered)})


def _row(job: FleetJob, word: Word, registered: int) -> JobRow:
    status = job.status
    since = status.since or job.submitted
    # Of its end by the site an agent knows the signal, and no more.
    ended = job.agent.ended if job.ended and not job.agent.was_terminated else ""
    # Seldom asked about while its agent is there: that it waits is old news then.
    old = word is Word.WORKING and status.state is JobState.QUEUED
    if word is Word.WORKING and not registered:
        word = Word.STARTING
    return JobRow(
        key=job.key,
        site=job.site,
        handle=str(job.handle or ""),
        workers=job.workers,
        registered=registered,
        word=status.state.value if word is Word.ENDED else word.value,
        reason=ended or job.leaving or job.silent or ("" if old else status.reason),
        said=status.said,
        hint=job.agent.hint or status.hint,
        since=since.isoformat(timespec="seconds"),
        where=status.where,
    )


# --- what is to be read --------------------------------------------------------------------------


def _notes(fleet: FleetSnapshot, titles: Mapping[str, str], trouble: str) -> list[Note]:
    notes = [
        *_failed(fleet, titles),
        *_held(fleet.jobs, titles),
        *_troubled(fleet, titles),
        *_silent(fleet, titles),
        *_lost(fleet.jobs),
    ]
    if trouble:
        notes.append(
            Note(
                "wait",
                "unknown",
                "The relay does not answer.",
                f"{sentence(trouble)} Workers come back by themselves as soon as it does.",
            )
        )
    if len(notes) > _MOST_NOTES:
        rest = len(notes) - _MOST_NOTES + 1
        notes = [*notes[: _MOST_NOTES - 1], Note("wait", "unknown", f"And {rest} more reasons.")]
    return notes


def _failed(fleet: FleetSnapshot, titles: Mapping[str, str]) -> Iterable[Note]:
    groups: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for failure in fleet.failures:
        groups[failure.kind].append(failure)
    for group in sorted(groups.values(), key=len, reverse=True):
        last = group[-1]
        advice = sentence(last.hint)
        if fleet.stopped:
            advice = f"{advice} Then call cluster.retry(), or wait.".strip()
        elif not any(failure.early for failure in group):
            advice = f"{advice} Others are sent in their place.".strip()
        verb = "failed" if any(failure.early for failure in group) else _were(group)
        log = f"Log of the last one: cluster.logs({last.key!r})."
        yield Note(
            "bad" if fleet.stopped else "warn",
            "bad" if fleet.stopped else "warn",
            f"{_jobs(len(group))} {verb} at {titles[last.site]}",
            f"at {_clock(last.when)}. {sentence(last.reason)}",
            last.said,
            f"{advice} {log}".strip(),
        )


def _held(jobs: Sequence[FleetJob], titles: Mapping[str, str]) -> Iterable[Note]:
    groups: dict[tuple[str, str], list[FleetJob]] = defaultdict(list)
    for job in jobs:
        if word_of(job) is Word.HELD:
            groups[job.site, job.status.reason].append(job)
    for (site, reason), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        workers = sum(job.workers for job in group)
        since = min((j.status.since for j in group if j.status.since), default=None)
        yield Note(
            "warn",
            "held",
            f"{_jobs(len(group))} with {_workers(workers)} {_are(group)} held at {titles[site]}",
            f"since {_clock(since)}. {sentence(reason)}" if since else sentence(reason),
            group[0].status.said,
            sentence(group[0].status.hint),
        )


def _troubled(fleet: FleetSnapshot, titles: Mapping[str, str]) -> Iterable[Note]:
    for site, trouble in fleet.troubles.items():
        if trouble.final:
            again = (
                f"It is asked again at {_clock(trouble.retry_at)}; cluster.retry() asks at once."
            )
            yield Note(
                "bad",
                "bad",
                f"{titles[site]} refuses more jobs.",
                sentence(trouble.message),
                "",
                f"{sentence(trouble.hint)} {again}".strip(),
            )
        else:
            yield Note(
                "wait",
                "unknown",
                f"No answer from {titles[site]} since {_clock(trouble.since)}.",
                f"{sentence(trouble.message)} It is asked again. Nothing is submitted twice.",
                advice=sentence(trouble.hint),
            )


def _silent(fleet: FleetSnapshot, titles: Mapping[str, str]) -> Iterable[Note]:
    silent: dict[tuple[str, str], int] = Counter(
        (job.site, job.silent)
        for job in fleet.jobs
        if job.silent and job.handle and job.counts and job.site not in fleet.troubles
    )
    for (site, reason), count in silent.items():
        yield Note(
            "wait",
            "unknown",
            f"No news of {_jobs(count)} at {titles[site]}.",
            f"{sentence(reason)} Workers that are connected go on. Nothing is submitted twice.",
        )


def _lost(jobs: Sequence[FleetJob]) -> Iterable[Note]:
    lost = [job for job in jobs if word_of(job) is Word.LOST]
    if lost:
        workers = sum(job.workers for job in lost)
        yield Note(
            "wait",
            "lost",
            f"{_jobs(len(lost))} with {_workers(workers)} lost {'its' if len(lost) == 1 else 'their'}"
            " connection.",
            "It comes back by itself, unless their node is gone; tasks run elsewhere meanwhile. "
            f"After {render_duration(Policy.lost_timeout)} others are sent instead.",
        )


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def _were(group: Sequence[object]) -> str:
    return "was lost" if len(group) == 1 else "were lost"


def _are(group: Sequence[object]) -> str:
    return "is" if len(group) == 1 else "are"


def _clock(when: datetime | None) -> str:
    return when.astimezone().strftime("%H:%M:%S") if when else "?"
