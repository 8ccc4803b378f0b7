"""What is seen of a fleet from outside, and what the fleet asks of the layer above. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from offload_sites.errors import JobLimitError, NotAuthorizedError, OffloadError
from offload_sites.fleet_failures import Failure, second_try
from offload_sites.fleet_plan import FleetJob
from offload_sites.jobs import JobSpec, SecretFiles

__all__ = ["FleetSnapshot", "Recruiter", "SiteTrouble", "next_trouble"]

_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0)
_SIGN_IN = timedelta(seconds=30)


class Recruiter(Protocol):
    """What a fleet asks of the layer above: it alone knows what the workers are."""

    def prepare(
        self, site: str, workers: int, keys: Sequence[str]
    ) -> tuple[JobSpec, Mapping[str, SecretFiles]]:
        """Return the spec of jobs with `workers` workers each at `site`, and each job's secrets."""

    async def retire(self, job: FleetJob, workers: int) -> None:
        """Let `workers` workers of `job` hand over their results and end. Safe to cancel."""

    def registered(self, job: FleetJob) -> int:
        """Return how many workers of `job` are there."""

    def idle_first(self) -> Sequence[str]:
        """Return keys of working jobs in the order in which they are best let go."""

    async def dismiss(self, keys: Sequence[str]) -> None:
        """Tell the agents of these jobs that nobody needs them any more. Safe to cancel."""


@dataclass(frozen=True)
class SiteTrouble:
    """Why a site is not used at present.

    Nothing is submitted before `retry_at`. `final`: it refuses, and does not merely keep silent.
    """

    since: datetime
    message: str
    retry_at: datetime
    hint: str = ""
    final: bool = False
    attempt: int = 0

    def is_due(self, now: datetime) -> bool:
        """Tell whether the site may be asked again."""
        return now >= self.retry_at


@dataclass(frozen=True)
class FleetSnapshot:
    """All that can be shown of a fleet. `stopped` says why nothing is submitted, if so."""

    wanted: int
    jobs: tuple[FleetJob, ...]
    stopped: str
    failures: tuple[Failure, ...]
    troubles: Mapping[str, SiteTrouble]
    polled: datetime | None


def next_trouble(old: SiteTrouble | None, error: OffloadError, now: datetime) -> SiteTrouble:
    """Return the trouble with a site that has just answered with `error`, after an `old` one."""
    if old and old.final is error.transient:
        old = None  # it was silent and now refuses, or the other way round
    attempt = old.attempt + 1 if old else 0
    since = old.since if old else now
    if error.transient:
        wait = timedelta(seconds=_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
    elif isinstance(error, (NotAuthorizedError, JobLimitError)):
        # Who has to sign in again does so elsewhere, and room for jobs is made by others.
        wait = _SIGN_IN
    else:
        # A rule of the site: whether it has been changed is found out by asking.
        wait = second_try(since, now)
    return SiteTrouble(
        since=since,
        message=error.message,
        retry_at=now + wait * random.uniform(0.8, 1.2),  # noqa: S311
        hint=error.hint,
        final=not error.transient,
        attempt=attempt,
    )
