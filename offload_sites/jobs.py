"""What a job is: the request, its name at the site, and its state. No I/O, no site, no framework.

Theory of operation
-------------------
A *key* is our name for a job. It is chosen before anything is sent and is carried by the site, so
that a submission cut off at any instant can be found again and is never doubled. A *handle* is the
site's own name. A job has two independent axes: what the site says (`JobState`) and whether its
agent is at the relay (`AgentState`); only the second one makes it useful.

::

    QUEUED ⇄ HELD          COMPLETED  the command ended with exit code 0
       ↓  ↘                FAILED     it ended otherwise, or could not be started
    RUNNING → ended   =    CANCELED   somebody removed it
                           TIMED_OUT  its walltime was used up
    UNKNOWN                the site does not answer, or does not know the job: never an end
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = [
    "AgentState",
    "AgentStatus",
    "ImageRef",
    "JobHandle",
    "JobLogs",
    "JobSpec",
    "JobState",
    "JobStatus",
    "Resources",
    "SecretFiles",
    "SiteHealth",
    "SiteState",
    "check_key",
]

# A key becomes a Kubernetes label, a DNS label, a file name and a ClassAd string.
_KEY = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

#: Files of one job that others must not read, by name in its working directory.
SecretFiles = Mapping[str, bytes]


def check_key(key: str) -> str:
    """Return `key` if every site can carry it.

    Raises
    ------
    ValueError
        It is not 1 to 63 lower-case letters, digits and inner hyphens.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"job key {key!r} is not 1-63 lower-case letters, digits, inner hyphens")
    return key


class JobState(enum.Enum):
    """What a site says of a job."""

    QUEUED = "queued"
    HELD = "held"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    TIMED_OUT = "timed_out"
    UNKNOWN = "unknown"

    @property
    def ended(self) -> bool:
        """True for the four states that a job never leaves."""
        return self in _ENDED


_ENDED = frozenset(
    {JobState.COMPLETED, JobState.FAILED, JobState.CANCELED, JobState.TIMED_OUT},
)


@dataclass(frozen=True)
class JobStatus:
    """One job as its site sees it.

    Parameters
    ----------
    state : JobState
        Where the job is.
    reason : str
        One sentence of ours on why it is there.
    said : str
        The site's own words, unchanged; shown to users as they are, always escaped.
    hint : str
        What the user can do; empty if nothing.
    since : datetime or None
        Aware UTC time at which this state began, as far as the site tells.
    exit_code : int or None
        Exit code of the job's command; negative for a signal; None if it is not known.
    where : str
        The node the job runs or ran on; empty if not known.
    """

    state: JobState
    reason: str = ""
    said: str = ""
    hint: str = ""
    since: datetime | None = None
    exit_code: int | None = None
    where: str = ""


class AgentState(enum.Enum):
    """What the relay says of a job's agent."""

    ABSENT = "absent"
    CONNECTED = "connected"
    LOST = "lost"


# What an agent says that got a SIGTERM.
_TERMINATED = 128 + 15


@dataclass(frozen=True)
class AgentStatus:
    """One job's agent as the relay sees it.

    Parameters
    ----------
    state : AgentState
        ABSENT until it came for the first time, LOST after its connection broke.
    since : datetime or None
        Aware UTC time at which this state began.
    ended : str
        The agent's last words, if it has ended in an orderly way: why.
    hint : str
        What the agent advises.
    exit_code : int or None
        Exit code of the payload, if it has ended.
    drain_after_s : float or None
        Seconds from its start after which the payload is asked to finish, since the walltime is
        nearly over; None if it has not said.
    """

    state: AgentState = AgentState.ABSENT
    since: datetime | None = None
    ended: str = ""
    hint: str = ""
    exit_code: int | None = None
    drain_after_s: float | None = None

    @property
    def was_terminated(self) -> bool:
        """True if the site has ended its job, of which the agent knows no more than the signal."""
        return self.exit_code == _TERMINATED

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> AgentStatus:
        """Return the status in one entry of what a relay tells the owner of a job.

        An agent that has said its last words is not there any more, so it counts as LOST.
        """
        state = AgentState.CONNECTED if entry.get("state") == "connected" else AgentState.LOST
        return cls(
            state,
            datetime.fromtimestamp(float(entry.get("since_s", 0.0)), UTC),
            str(entry.get("reason", "")),
            str(entry.get("hint", "")),
            entry.get("exit_code"),
            _seconds(entry.get("info")),
        )


def _seconds(info: object) -> float | None:
    """Return `drain_after_s` of what an agent has told of itself, if that is a time."""
    value = info.get("drain_after_s") if isinstance(info, Mapping) else None
    good = isinstance(value, int | float) and 0 < value < timedelta(days=3650).total_seconds()
    return float(value) if value is not None and good else None


@dataclass(frozen=True)
class Resources:
    """What one job, or one worker, asks for.

    Parameters
    ----------
    cpus : int
        Cores, at least 1.
    memory_bytes : int
        Memory in bytes, at least 1.
    gpus : int
        GPUs, at least 0.
    """

    cpus: int = 1
    memory_bytes: int = 2 * 1024**3
    gpus: int = 0

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.memory_bytes < 1 or self.gpus < 0:
            raise ValueError(f"impossible resources: {self}")

    def times(self, count: int) -> Resources:
        """Return what `count` of these ask for together."""
        return Resources(self.cpus * count, self.memory_bytes * count, self.gpus * count)

    def fits(self, node: Resources) -> int:
        """Return how many of these fit a `node` at once; 0 if not even one does."""
        counts = [node.cpus // self.cpus, node.memory_bytes // self.memory_bytes]
        if self.gpus:
            counts.append(node.gpus // self.gpus)
        return min(counts)


@dataclass(frozen=True)
class ImageRef:
    """An image as the catalog names it; each site kind renders the form it can run.

    Parameters
    ----------
    name : str
        Name in the catalog, or the path a user gave where a profile allows one.
    title : str
        What users read.
    cvmfs, docker : str
        Path of the unpacked image below `/cvmfs`; registry reference. Empty if it has none.
    python : str
        The interpreter inside; an absolute path where there is no container around it.
    """

    name: str
    title: str = ""
    cvmfs: str = ""
    docker: str = ""
    python: str = "python3"


@dataclass(frozen=True)
class JobSpec:
    """An immutable request for one job, or for many equal ones.

    Parameters
    ----------
    command : tuple of str
        argv, run in the job's own working directory. Everybody at the site can read it.
    resources : Resources
        What the job as a whole asks for.
    walltime : timedelta
        How long it may run from its start.
    image : ImageRef or None
        What it runs in; None for the site's bare node.
    environment : mapping
        Variables, none of them secret: everybody at the site can read them.
    inputs : mapping
        Name in the working directory to a file on this machine; not secret either.
    labels : mapping
        For people who look at the queue (`owner`, `cluster`, `profile`).
    max_wait : timedelta or None
        How long it is wanted while it waits: where a site can be told, it drops the job by itself
        after that, whatever has become of who submitted it.
    """

    command: tuple[str, ...]
    resources: Resources
    walltime: timedelta
    image: ImageRef | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    inputs: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    max_wait: timedelta | None = None

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError("a job needs a command")
        if self.walltime <= timedelta(0):
            raise ValueError(f"a job needs a walltime above zero, got {self.walltime}")


@dataclass(frozen=True, order=True)
class JobHandle:
    """A site's own name for a job: enough to find it after a restart. Written `site:native_id`."""

    site: str
    native_id: str

    def __str__(self) -> str:
        return f"{self.site}:{self.native_id}"

    @classmethod
    def parse(cls, text: str) -> JobHandle:
        """Return the handle that `str()` wrote.

        Raises
        ------
        ValueError
            `text` is not `site:native_id`.
        """
        site, colon, native_id = text.partition(":")
        if not (site and colon and native_id):
            raise ValueError(f"expected a job as site:id, got {text!r}")
        return cls(site, native_id)


@dataclass(frozen=True)
class JobLogs:
    """What a job has printed, as far as the site gives it out (the end of it, if it is long)."""

    stdout: str = ""
    stderr: str = ""


class SiteState(enum.Enum):
    """What users are told of a site."""

    UP = "up"
    FULL = "full"
    DEGRADED = "degraded"
    DOWN = "down"
    NO_ANSWER = "no answer"


@dataclass(frozen=True)
class SiteHealth:
    """A site's state with the reason, as it was at the moment of asking.

    Parameters
    ----------
    state : SiteState
        FULL means that jobs are accepted and wait; DOWN, that they are refused.
    reason : str
        One sentence; empty if the site is up.
    free_cpus : int or None
        Cores that would start a job at once; None if the site does not tell.
    """

    state: SiteState
    reason: str = ""
    free_cpus: int | None = None
