"""What the job of a session is made of: its command, its lease, and what its server is told. Pure."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from interlink_spawner.session_image import LAB_FILES
from offload_relay.access import RelayAccess, site_label, user_label
from offload_relay.agent.config import AgentConfig
from offload_relay.bundle import write_agent
from offload_relay.lease import Lease, sign
from offload_sites.catalog import BaseSite
from offload_sites.jobs import ImageRef, JobSpec, Resources, SecretFiles
from offload_sites.resolve import Resolved

__all__ = [
    "AGENT_CONFIG",
    "AGENT_FILE",
    "SESSION_CONFIG",
    "SessionRequest",
    "session_domain",
    "session_environment",
    "session_home",
    "session_job",
    "session_owner",
    "write_session_agent",
]

AGENT_FILE = "offload-agent.pyz"
AGENT_CONFIG = "agent.json"
SESSION_CONFIG = "session.json"

# Set by the hub for its own server; a catalog or a profile has no say in them.
_RESERVED = ("JUPYTERHUB_", "JPY_", "OFFLOAD_")
# A server needs a few seconds to end its kernels; the user has been warned minutes before.
_DRAIN_S = 20.0
_TRAVELS = (
    "session_image.py",
    "session_node.py",
    "session_payload.py",
    *(f"labextension/{name}" for name in LAB_FILES),
)


@dataclass(frozen=True)
class SessionRequest:
    """All that is known of a session before it is submitted.

    Parameters
    ----------
    user : str
        Whose it is, as the hub writes the name.
    session : str
        Unique id, a label (lower-case letters, digits, hyphens, a letter first): the first part of
        its domain.
    key : str
        Key of its job; keys of one session differ after the last hyphen.
    route : str
        The path that it answers for, `/user/alice/` or `/user/alice/gpu/`.
    site, site_title : str
        Name of the site in the catalog, and what users read.
    relay : RelayAccess
        Where the agent dials.
    image : ImageRef
        What it runs in.
    resources : Resources
        What it asks for.
    walltime, queue_budget : timedelta
        How long it may run, and wait.
    asked : datetime
        Aware UTC: when it was asked for. Its lease ends a queue budget and a walltime later.
    environment : mapping
        What the hub tells a server, its token included. Travels in a file that only the job reads.
    arguments : tuple of str
        For the server; everybody on the node can read them.
    command : tuple of str
        The server itself.
    notebook_dir : str
        Where it shows files, at the site; empty for the home directory.
    home : str
        Home directory: "job" for a folder of this job that ends with it, "site" for what the site
        gives the job, or an absolute path at the site, which is made if it is not there.
    labels : mapping
        For people who look at a queue.
    unreachable : timedelta
        For how long it goes on without its relay.
    unwatched : timedelta
        For how long it goes on while no hub watches it.
    """

    user: str
    session: str
    key: str
    route: str
    site: str
    site_title: str
    relay: RelayAccess
    image: ImageRef
    resources: Resources
    walltime: timedelta
    queue_budget: timedelta
    asked: datetime
    environment: Mapping[str, str] = field(repr=False)
    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] = ("jupyterhub-singleuser",)
    notebook_dir: str = ""
    home: str = "job"
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unreachable: timedelta = timedelta(minutes=30)
    unwatched: timedelta = timedelta(hours=12)

    @property
    def domain(self) -> str:
        """Last labels of its net; its owner watches this."""
        return session_domain(self.user, self.session)

    @property
    def net(self) -> str:
        """What its agent registers endpoints in."""
        return f"j{self.key.rpartition('-')[2]}.{site_label(self.site)}.{self.domain}"

    @property
    def expires(self) -> datetime:
        """When its lease ends."""
        return self.asked + self.queue_budget + self.walltime


def session_home(site: BaseSite, user: str) -> str:
    """Return the `home` of a session of `user` at `site`: what the catalog says, or that of its job."""
    home: str | None = getattr(site, "home", None)
    return home.replace("{user}", user_label(user)) if home else "job"


def session_environment(
    resolved: Resolved, hub: Mapping[str, str], service_url: str
) -> dict[str, str]:
    """Return the variables of a server that runs as a job.

    Parameters
    ----------
    resolved : Resolved
        What was asked for.
    hub : mapping
        What the hub tells a server.
    service_url : str
        The offload service as the session reaches it; empty if there is none.
    """
    ours = {"OFFLOAD_PROFILE": resolved.profile, "OFFLOAD_IMAGE": resolved.image.name}
    if service_url:
        ours["OFFLOAD_SERVICE_URL"] = service_url
    given = {
        name: value
        for name, value in resolved.environment.items()
        if not name.startswith(_RESERVED)
    }
    return {name: str(value) for name, value in {**ours, **hub, **given}.items()}


def session_domain(user: str, session: str) -> str:
    """Return the domain of the session with the id `session`: `<session>.<label of the user>`."""
    return f"{session}.{user_label(user)}"


def session_owner(
    relay: RelayAccess, user: str, session: str, route: str, expires: datetime
) -> str:
    """Return the lease with which a hub watches and ends the session with the id `session`.

    While it watches, the relay's gateway keeps `route` for this session: it answers 503 there until
    the agent has come, and never lets another server of this user answer in its place.
    """
    domain = session_domain(user, session)
    lease = Lease(role="owner", user=user, domain=domain, expires=expires, route=route)
    return sign(lease, relay.key)


def session_job(request: SessionRequest, agent: Path) -> tuple[JobSpec, SecretFiles]:
    """Return the job of a session, and what only that job may read.

    Parameters
    ----------
    request : SessionRequest
        What is asked for.
    agent : Path
        The agent's archive, from `write_session_agent`.

    Notes
    -----
    The session may dial all that its user has at this relay: a scheduler inside the session reaches,
    and is reached by, the workers of that user's clusters.
    """
    spec = JobSpec(
        command=(request.image.python, AGENT_FILE, AGENT_CONFIG),
        resources=request.resources,
        walltime=request.walltime,
        image=request.image,
        inputs={AGENT_FILE: agent},
        labels=request.labels,
        max_wait=request.queue_budget,
    )
    return spec, {AGENT_CONFIG: _agent(request).render(), SESSION_CONFIG: _session(request)}


def _agent(request: SessionRequest) -> AgentConfig:
    lease = Lease(
        role="agent",
        user=request.user,
        domain=request.domain,
        expires=request.expires,
        job=request.key,
        net=request.net,
        dial=(f"*.{user_label(request.user)}",),
        route=request.route,
        unwatched_s=request.unwatched.total_seconds(),
    )
    return AgentConfig(
        relay=request.relay.url,
        lease=sign(lease, request.relay.key),
        job=request.key,
        net=request.net,
        payload=[
            *("{python}", "{agent}", "--payload", "interlink_spawner.session_payload"),
            SESSION_CONFIG,
        ],
        walltime_s=request.walltime.total_seconds(),
        drain_s=_DRAIN_S,
        unreachable_s=request.unreachable.total_seconds(),
        relay_ca=request.relay.ca,
    )


def _session(request: SessionRequest) -> bytes:
    value = {
        "environment": dict(request.environment),
        "command": list(request.command),
        "arguments": list(request.arguments),
        "route": request.route,
        "site": request.site_title or request.site,
        "notebook_dir": request.notebook_dir,
        "home": request.home,
    }
    return json.dumps(value, indent=1).encode()


def write_session_agent(folder: Path) -> Path:
    """Write the agent that can run sessions into `folder` and return its path."""
    package = importlib.resources.files("interlink_spawner")
    payload = {f"interlink_spawner/{name}": (package / name).read_bytes() for name in _TRAVELS}
    # The package's own __init__ may import what images do not have.
    payload["interlink_spawner/__init__.py"] = b'"""A session; see interlink-offload."""\n'
    return write_agent(folder, payload)
