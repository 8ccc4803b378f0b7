"""Who is at the relay: agents by domain and job, their endpoints, parked connections, last words.

No sockets and no clock: connections are opaque, and time is an argument (Unix seconds).

Theory of operation
-------------------
::

    connect ──► CONNECTED ──connection lost──► LOST ──lost_grace_s──► forgotten
                    ▲                            │
                    └──── same instance ─────────┘
    CONNECTED or LOST ──Ended, or told gone──► ENDED ──ended_keep_s──► forgotten

While an agent is CONNECTED or LOST nobody else gets its net, not even with the same lease: a site
may start a job a second time, and a stolen lease must not take over a connection that blinked.
"""

from __future__ import annotations

import collections
import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from offload_relay.lease import Lease, has_expired, may_register
from offload_relay.protocol import CloseCode, Ended, Endpoint, Limits
from offload_relay.server.routes import Routes

__all__ = ["Agent", "Directory", "Domain", "Phase", "RefusedError"]


# Most characters of an agent's last words that its owner is told.
_WORDS = 2000
_UNWATCHED = "nobody has asked for this job any more"
_EXPIRED = "its lease has expired"


class RefusedError(Exception):
    """The peer may not do this; `code` and the sentence go into the close frame."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Phase(enum.Enum):
    """Where an agent is in its life."""

    CONNECTED = "connected"
    LOST = "lost"
    ENDED = "ended"


@dataclass(eq=False)
class Agent:
    """One agent. `parked` (newest last), `waiting` and `streams` hold the edge's own objects.

    `served` is the endpoint that answers for the route of its lease; empty until it is registered.
    """

    lease: Lease
    instance: str
    since_s: float
    info: dict[str, Any] = field(default_factory=dict)
    phase: Phase = Phase.CONNECTED
    endpoints: set[str] = field(default_factory=set)
    served: str = ""
    parked: collections.deque[Any] = field(default_factory=collections.deque)
    waiting: collections.deque[Any] = field(default_factory=collections.deque)
    streams: set[Any] = field(default_factory=set)
    bytes_in: int = 0
    bytes_out: int = 0
    told_gone_s: float | None = None
    ended: Ended | None = None

    def describe(self) -> dict[str, Any]:
        """Return the entry of `protocol.Agents` for this agent."""
        entry: dict[str, Any] = {
            "job": self.lease.job,
            "state": self.phase.value,
            "since_s": self.since_s,
            "endpoints": len(self.endpoints),
            "serves": bool(self.served),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "info": self.info,
        }
        if self.ended is not None:
            entry |= {
                "exit_code": self.ended.exit_code,
                "reason": self.ended.reason[:_WORDS],
                "hint": self.ended.hint[:_WORDS],
            }
        return entry


@dataclass(eq=False)
class Domain:
    """All agents of one Dask cluster or session, and what its owner has said."""

    owner_seen_s: float
    owners: int = 0
    agents: dict[str, Agent] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    all_gone: str | None = None
    orphaned: bool = False

    def unwatched_s(self, usual_s: float) -> float:
        """Return for how long its agents go on without an owner: as the most patient lease says."""
        said = (agent.lease.unwatched_s for agent in self.agents.values())
        return max((usual_s if s is None else s for s in said), default=usual_s)

    def gone_reason(self, job: str) -> str | None:
        """Return why `job` is to end; None if it is not."""
        return self.gone.get(job, self.all_gone or (_UNWATCHED if self.orphaned else None))


class Directory:
    """All agents at this relay. Forgotten with the process: agents and owners come back."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.domains: dict[str, Domain] = {}
        self._by_net: dict[str, Agent] = {}
        self.routes = Routes()
        #: Agents forgotten since somebody looked: whatever they still hold open is to be closed.
        self.forgotten: list[Agent] = []
        #: Totals of agents already forgotten, so that counters never fall.
        self.bytes_in = 0
        self.bytes_out = 0

    def domain(self, name: str, now_s: float) -> Domain:
        """Return the domain, made on first use."""
        if name not in self.domains:
            self.domains[name] = Domain(owner_seen_s=now_s)
        return self.domains[name]

    def agents(self) -> Iterator[Agent]:
        """Yield all agents, ended ones included."""
        for domain in self.domains.values():
            yield from domain.agents.values()

    def connect(self, lease: Lease, instance: str, now_s: float) -> Agent:
        """Return the agent for a new control connection: a new one, or the same one come back.

        Raises
        ------
        RefusedError
            Told gone (final), or another instance holds this net (try again later).
        """
        domain = self.domain(lease.domain, now_s)
        reason = domain.gone_reason(lease.job)
        if reason is not None:
            raise RefusedError(CloseCode.GONE, reason)
        holder = self._by_net.get(lease.net)
        if holder is not None and holder.phase is not Phase.ENDED:
            if holder.instance != instance or holder.lease.job != lease.job:
                raise RefusedError(
                    CloseCode.HELD_BY_ANOTHER,
                    f"another agent of job {lease.job} is {holder.phase.value}",
                )
            holder.phase, holder.since_s, holder.lease = Phase.CONNECTED, now_s, lease
            # It registers anew what still listens; some of its payload may have died meanwhile.
            holder.endpoints.clear()
            holder.served = ""
            return holder
        if holder is not None:
            self._forget(holder)
        agent = Agent(lease, instance, now_s)
        self.routes.add(agent)
        domain.agents[lease.job] = self._by_net[lease.net] = agent
        return agent

    def find(self, lease: Lease, instance: str) -> Agent:
        """Return the connected agent that a parked or dialling connection belongs to.

        Raises
        ------
        RefusedError
            There is none; its control connection has to come first.
        """
        agent = self._by_net.get(lease.net)
        if agent is None or agent.instance != instance or agent.phase is not Phase.CONNECTED:
            raise RefusedError(
                CloseCode.TRY_AGAIN, f"no agent of job {lease.job} is connected; say hello first"
            )
        return agent

    def register(self, agent: Agent, text: str, *, serves: bool = False) -> str:
        """Let `agent` hold the endpoint written in `text`; return why not, or an empty string.

        `serves`: it answers for the route of the agent's lease.
        """
        endpoint = Endpoint.parse(text)
        if not may_register(agent.lease, endpoint):
            return f"the lease is for *.{agent.lease.net}, not for {endpoint}"
        if len(agent.endpoints) >= self.limits.endpoints and text not in agent.endpoints:
            return f"at most {self.limits.endpoints} endpoints for one agent"
        agent.endpoints.add(str(endpoint))
        if serves:
            agent.served = str(endpoint)
        return ""

    def unregister(self, agent: Agent, endpoint: str) -> None:
        """Let `agent` hold `endpoint` no more."""
        agent.endpoints.discard(endpoint)
        if agent.served == endpoint:
            agent.served = ""

    def lookup(self, endpoint: Endpoint) -> Agent | None:
        """Return the connected agent that serves `endpoint`; None if it is not there now."""
        agent = self._by_net.get(endpoint.net)
        if agent is None or agent.phase is not Phase.CONNECTED:
            return None
        return agent if str(endpoint) in agent.endpoints else None

    def lose(self, agent: Agent, now_s: float) -> None:
        """Record that the control connection of `agent` broke."""
        if agent.phase is Phase.CONNECTED:
            agent.phase, agent.since_s = Phase.LOST, now_s

    def end(self, agent: Agent, words: Ended, now_s: float) -> None:
        """Record the last words of `agent`."""
        agent.phase, agent.since_s, agent.ended = Phase.ENDED, now_s, words
        agent.endpoints.clear()
        agent.served = ""

    def watch(self, name: str, now_s: float) -> Domain:
        """Return the domain whose owner has come: what it starts from now on is asked for again."""
        domain = self.domain(name, now_s)
        domain.orphaned = False
        domain.owners += 1
        return domain

    def tell_gone(self, domain: Domain, jobs: list[str], reason: str) -> list[Agent]:
        """Record that `jobs` (none: all) are to end; return the agents to be told now."""
        if jobs:
            domain.gone.update(dict.fromkeys(jobs, reason))
        else:
            domain.all_gone = reason
        return _gone_agents(domain)

    def sweep(self, now_s: float) -> list[Agent]:
        """Forget what is over, and return agents to be told gone.

        Those whose owner has stayed away for too long, and those whose lease has expired while they
        were connected: no right outlives its lease.
        """
        told = []
        for name, domain in list(self.domains.items()):
            if domain.owners:
                domain.owner_seen_s = now_s
            for agent in list(domain.agents.values()):
                if self._is_over(agent, now_s):
                    self._forget(agent)
                elif has_expired(agent.lease, now_s):
                    told += self.tell_gone(domain, [agent.lease.job], _EXPIRED)
            away = now_s - domain.owner_seen_s > domain.unwatched_s(self.limits.owner_grace_s)
            if away and domain.agents:
                domain.orphaned = True
                told += _gone_agents(domain)
            elif away and (
                domain.gone_reason("") is None
                or now_s - domain.owner_seen_s > self.limits.gone_keep_s
            ):
                del self.domains[name]
        return list(dict.fromkeys(told))

    def overdue(self, now_s: float) -> list[Agent]:
        """Return agents that were told gone and are still connected long after."""
        return [
            agent
            for agent in self.agents()
            if agent.phase is Phase.CONNECTED
            and agent.told_gone_s is not None
            and now_s - agent.told_gone_s > self.limits.gone_grace_s
        ]

    def _is_over(self, agent: Agent, now_s: float) -> bool:
        age_s = now_s - agent.since_s
        if agent.phase is Phase.LOST:
            return age_s > self.limits.lost_grace_s
        return agent.phase is Phase.ENDED and age_s > self.limits.ended_keep_s

    def _forget(self, agent: Agent) -> None:
        self.bytes_in += agent.bytes_in
        self.bytes_out += agent.bytes_out
        self.routes.remove(agent)
        self.forgotten.append(agent)
        self.domains[agent.lease.domain].agents.pop(agent.lease.job, None)
        if self._by_net.get(agent.lease.net) is agent:
            del self._by_net[agent.lease.net]


def _gone_agents(domain: Domain) -> list[Agent]:
    return [
        agent
        for agent in domain.agents.values()
        if agent.phase is not Phase.ENDED and domain.gone_reason(agent.lease.job) is not None
    ]
