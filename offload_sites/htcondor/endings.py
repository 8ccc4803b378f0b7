"""What is remembered of jobs that are in the queue no more. Pure; the time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from offload_sites.jobs import JobState, JobStatus

__all__ = ["Endings"]

# When the history is asked again for a job that it did not have: a record may come late, and a
# search through a long history is dear.
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 300.0)
# A job that we saw, and that is then for so long neither in the queue nor in the history, is lost.
_LOST_S = 120.0
_REMEMBERED = 10_000


@dataclass
class _Missing:
    since_s: float
    seen: bool
    searches: int = 0
    next_s: float = 0.0


class Endings:
    """Ends of jobs, and the search for those that are not known yet. Ids are native ones."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, JobStatus] = OrderedDict()
        self._cancelled: set[str] = set()
        self._seen: set[str] = set()
        self._missing: dict[str, _Missing] = {}

    def get(self, id_: str) -> JobStatus | None:
        """Return how a job has ended, if that is known."""
        return self._ended.get(id_)

    def ended(self, id_: str, status: JobStatus) -> JobStatus:
        """Remember an end, and return it: what was told first stays."""
        status = self._ended.setdefault(id_, status)
        self._cancelled.discard(id_)
        self._seen.discard(id_)
        self._missing.pop(id_, None)
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        return status

    def cancelled(self, ids: Iterable[str]) -> None:
        """Note that the site has taken our request to end these jobs, which were in its queue."""
        self._cancelled.update(id_ for id_ in ids if id_ not in self._ended)

    def is_cancelled(self, id_: str) -> bool:
        """Tell whether we have ended this job."""
        return id_ in self._cancelled

    def seen(self, ids: Iterable[str]) -> None:
        """Note that these jobs are in the queue."""
        for id_ in ids:
            self._seen.add(id_)
            self._missing.pop(id_, None)

    def gone(self, id_: str, now_s: float) -> JobStatus | None:
        """Return the end of a job that the queue does not have; None if it is to be searched for."""
        if id_ in self._cancelled:
            return self.ended(id_, JobStatus(JobState.CANCELED, "it was cancelled"))
        missing = self._missing.setdefault(id_, _Missing(now_s, id_ in self._seen))
        if missing.seen and missing.searches and now_s - missing.since_s > _LOST_S:
            reason = "the site lists it no more, and has no record of its end"
            hint = "ask the site, with the id of the job"
            return self.ended(id_, JobStatus(JobState.FAILED, reason, hint=hint))
        return None

    def due(self, ids: Iterable[str], now_s: float) -> list[str]:
        """Return those of `ids` that the history is to be asked for now; they count as asked."""
        due = []
        for id_ in ids:
            missing = self._missing.get(id_)
            if missing is not None and missing.next_s <= now_s:
                pause_s = _PAUSES_S[min(missing.searches, len(_PAUSES_S) - 1)]
                missing.searches += 1
                missing.next_s = now_s + pause_s
                due.append(id_)
        return due

    def no_answer(self, ids: Iterable[str]) -> None:
        """Note that the history did not answer: that is no search."""
        for id_ in ids:
            if id_ in self._missing:
                self._missing[id_].searches -= 1
