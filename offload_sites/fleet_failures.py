"""What fails in a fleet, and what follows from that for its refill. Pure.

Theory of operation
-------------------
What has ended unasked is replaced, within two budgets:

* *start failures*: jobs that failed before they were of use. Three that fail in the same way stop
  the refill: the fourth would fail too. What was wrong may be put right without anybody here, as by the
  end of a site's maintenance. So one job is sent after a while, and again after pauses that grow. Once
  a job has worked there that started after the failures, they no longer count.
* *losses*: jobs that worked and then ended, and jobs that their site took away at whatever time, as
  it does with all of a node that is switched off: nothing is wrong with them. They are replaced up to
  a budget per hour.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from offload_sites.fleet_plan import FleetJob, Policy
from offload_sites.jobs import AgentState, JobState
from offload_sites.units import render_duration

__all__ = ["Failure", "Failures", "failure_of", "second_try"]

log = logging.getLogger(__name__)

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_HOUR = timedelta(hours=1)
_SHORTEST_PAUSE, _LONGEST_PAUSE = timedelta(minutes=10), _HOUR
# Of what is no longer in the budget of the hour, so much is kept for those who look.
_KEPT = 100


@dataclass(frozen=True)
class Failure:
    """A job that ended unasked. `early`: before it was of use."""

    key: str
    site: str
    when: datetime
    reason: str
    said: str = ""
    hint: str = ""
    early: bool = True

    @property
    def kind(self) -> tuple[str, str]:
        """Equal for failures that are the same to a person: numbers and names of jobs differ."""
        return self.site, re.sub(r"[0-9a-f]{6,}|\d+", "#", self.reason or self.said)


class Failures:
    """What has failed in one fleet since the refill was last started.

    Parameters
    ----------
    policies : mapping
        Name of the site to its policy. The budgets are those of the first one.
    known : iterable of FleetJob
        Jobs of an earlier life of the fleet.
    """

    def __init__(self, policies: Mapping[str, Policy], known: Iterable[FleetJob] = ()) -> None:
        self._policies = policies
        self._policy = next(iter(policies.values()))
        self._all: list[Failure] = []
        self._noted: set[str] = set()
        # Name of a site to when a job came there that has worked.
        self._worked: dict[str, datetime] = {}
        # Name of a site to when a job was last sent there to see if it works.
        self._tried: dict[str, datetime] = {}
        for job in known:
            if job.ended and job.status.since:
                self.look([job], job.status.since, job.status.since)

    @property
    def all(self) -> tuple[Failure, ...]:
        """The oldest first."""
        return tuple(self._all)

    def look(self, jobs: Sequence[FleetJob], now: datetime, heard_since: datetime) -> list[Failure]:
        """Return what has failed of `jobs` since the last look; `heard_since` as in `failure_of`."""
        new = []
        for job in jobs:
            if _has_worked(job, now, self._policies[job.site]):
                came = job.connected or _LONG_AGO
                self._worked[job.site] = max(came, self._worked.get(job.site, came))
            if job.key in self._noted:
                continue
            failure = failure_of(job, now, self._policies[job.site], heard_since=heard_since)
            if failure is not None:
                log.warning("job %s failed at %s: %s", job.key, job.site, failure.reason)
                self._noted.add(job.key)
                new.append(failure)
        self._all += new
        recent = sum(now - failure.when < _HOUR for failure in self._all)
        del self._all[: -max(recent, _KEPT)]
        return new

    def clear(self) -> None:
        """Forget all failures: whatever was wrong is put right."""
        self._all.clear()
        self._tried.clear()

    def forget(self, key: str) -> None:
        """Forget the job `key`, which is never looked at again."""
        self._noted.discard(key)

    def spent(self, now: datetime, jobs: int) -> str:
        """Return that the budget of losses is used up at `now`, if so; `jobs` are wanted altogether."""
        recent = sum(now - one.when < _HOUR for one in self._all)
        budget = self._policy.losses_per_hour + 2 * jobs
        if recent <= budget:
            return ""
        return (
            f"{recent} jobs were lost within an hour, more than the budget of {budget}; "
            "more are sent when the first of these losses is an hour old"
        )

    def stopped(self, site: str) -> str:
        """Return why no more jobs are sent to `site`; empty if nothing is in the way."""
        same = self._same(site)
        if not same:
            return ""
        return (
            f"{len(same)} jobs failed in the same way at {site}: {same[-1].reason}; "
            f"another one is sent {render_duration(self._pause(same))} after the last"
        )

    def try_again(self, site: str, jobs: Iterable[FleetJob], now: datetime) -> bool:
        """Tell whether a job is to be sent to `site`, which is stopped, to see if it works.

        Not while another of `jobs` is on its way there, nor soon after the last try, however it ended.
        Whoever hears True sends one.
        """
        same = self._same(site)
        if not same:
            return False
        due = now - self._last(same) >= self._pause(same) and all(
            _has_worked(job, now, self._policies[site])
            for job in jobs
            if job.counts and job.site == site
        )
        if due:
            self._tried[site] = now
        return due

    def _same(self, site: str) -> list[Failure]:
        """Return the start failures that stop the refill at a site; none if nothing does."""
        worked = self._worked.get(site, _LONG_AGO)
        early = [one for one in self._all if one.site == site and one.early and one.when > worked]
        kinds = Counter(one.kind for one in early)
        for kind, count in kinds.most_common(1):
            if count >= self._policy.same_failures:
                return [one for one in early if one.kind == kind]
        return []

    def _pause(self, same: Sequence[Failure]) -> timedelta:
        return second_try(same[0].when, self._last(same))

    def _last(self, same: Sequence[Failure]) -> datetime:
        """Return when it was last seen, or tried, that none works."""
        return max(same[-1].when, self._tried.get(same[-1].site, _LONG_AGO))


def second_try(since: datetime, now: datetime) -> timedelta:
    """Return how long to wait after `now` with what has failed `since` then: as long again.

    From 10 min to 1 h.
    """
    return min(max(now - since, _SHORTEST_PAUSE), _LONGEST_PAUSE)


def _has_worked(job: FleetJob, now: datetime, policy: Policy) -> bool:
    return (
        job.agent.state is AgentState.CONNECTED
        and job.connected is not None
        and now - job.connected >= policy.short_life
    )


def failure_of(
    job: FleetJob, now: datetime, policy: Policy, *, heard_since: datetime = _LONG_AGO
) -> Failure | None:
    """Return why `job` is a failure at `now`; None while there is hope, or if we ended it.

    Parameters
    ----------
    job : FleetJob
        As it was last seen.
    now : datetime
        Aware UTC.
    policy : Policy
        How patient to be.
    heard_since : datetime
        Since when the relay answers, without a break; `now` while it is silent. An agent that
        nobody can see is not missing, so time counts against it only from then on.
    """
    if job.leaving:
        return None
    reason, hint = _trouble(job, now, policy, heard_since)
    if not reason:
        return None
    # A site may say so minutes after its agent has.
    gone = job.agent.since if job.agent.ended and job.agent.since else now
    taken = job.status.state is JobState.CANCELED or job.agent.was_terminated
    early = not taken and (job.connected is None or gone - job.connected < policy.short_life)
    return Failure(job.key, job.site, now, reason, job.status.said, hint, early)


def _trouble(
    job: FleetJob, now: datetime, policy: Policy, heard_since: datetime
) -> tuple[str, str]:
    status, agent = job.status, job.agent
    if status.state is JobState.TIMED_OUT:
        return "", ""
    if job.ended:
        # The agent was nearer to what happened than the site, but where the site ended it.
        told = "" if agent.was_terminated else agent.ended
        reason = told or status.reason or f"the job ended ({status.state.value})"
        return reason, agent.hint or status.hint
    since = status.since or job.submitted
    if status.state is JobState.HELD and now - since > policy.hold_timeout:
        return f"held by the site: {status.reason}", status.hint
    if status.state is JobState.RUNNING:
        if job.connected is None and now - max(since, heard_since) > policy.start_timeout:
            minutes = policy.start_timeout.total_seconds() / 60
            return (
                f"it runs, but its agent has not come within {minutes:g} min",
                "the site may not reach the relay, or the image has no Python: read the job's log",
            )
        lost_since = agent.since if agent.state is AgentState.LOST else None
        if lost_since and agent.ended and now - lost_since > policy.farewell_timeout:
            # Sites have old news, or none: a virtual node can be minutes behind.
            return agent.ended, agent.hint
        if lost_since and now - max(lost_since, heard_since) > policy.lost_timeout:
            return "the connection to its agent was lost and did not come back", ""
    return "", ""
