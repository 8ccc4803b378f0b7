"""Scheduler, workers and, where there is one, relay: the same workers reached in different ways."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.security import Security

from bench.processes import Measured, until
from dask_offload.bundle import write_worker_agent
from dask_offload.comm import Reach
from dask_offload.config import load_defaults, setting
from dask_offload.recruit import WorkerJobs
from dask_offload.runtime import ClusterFolder
from dask_offload.tls import ClusterAuthority
from offload_relay.access import RelayAccess, SitePlace
from offload_relay.lease import Lease, sign
from offload_sites.jobs import ImageRef, Resources

__all__ = ["KINDS", "Setup", "setup"]

KINDS = ("tcp", "tls", "relay")
_PER_JOB = 50
_START_S = 120.0
_HOUR = timedelta(hours=1)
_DOMAIN = "bench"


@dataclass
class Setup:
    """What runs: `relay` is None for direct connections, `jobs` are what a site would start."""

    kind: str
    scheduler: Measured
    client: Client
    relay: Measured | None = None
    relay_rss_bytes: int = 0
    jobs: list[Measured] = field(default_factory=list)
    recruit: Any = None

    def start_workers(self, count: int) -> None:
        """Start jobs for `count` workers."""
        for first in range(0, count, _PER_JOB):
            self.jobs.append(self.recruit(len(self.jobs) + 1, min(_PER_JOB, count - first)))

    def wait(self, count: int) -> None:
        """Wait until `count` workers are registered."""

        def registered() -> bool:
            return len(self.client.scheduler_info(n_workers=-1)["workers"]) == count

        until(registered, 300, [self.scheduler, *self.jobs])


@contextlib.contextmanager
def setup(kind: str, place: Path) -> Iterator[Setup]:
    """Yield a setup of one kind without workers; all of it ends with the `with` block."""
    load_defaults()
    place.mkdir(parents=True)
    authority = ClusterAuthority(_DOMAIN)
    with contextlib.ExitStack() as stack:
        made = (_relayed if kind == "relay" else _direct)(stack, kind, place, authority)
        yield made
        for job in made.jobs:
            stack.callback(job.__exit__)
        stack.callback(made.client.close)


def _dask_config() -> dict[str, Any]:
    return dict(setting("worker.config"))


def _nested(dotted: dict[str, Any]) -> dict[str, Any]:
    import dask.config

    config: dict[str, Any] = {}
    dask.config.set(dotted, config=config)
    return config


def _credential(authority: ClusterAuthority) -> dict[str, str]:
    issued = authority.issue("bench", _HOUR)
    return {"ca": issued.ca, "cert": issued.cert, "key": issued.key}


def _client(address: str, tls: dict[str, str] | None, reach: Reach | None = None) -> Client:
    security = None
    if tls:
        security = Security(
            require_encryption=True,
            tls_ca_file=tls["ca"],
            tls_client_cert=tls["cert"],
            tls_client_key=tls["key"],
            extra_conn_args={"relay": reach} if reach else {},
        )
    return Client(address, security=security)


# --- direct --------------------------------------------------------------------------------------


def _direct(
    stack: contextlib.ExitStack, kind: str, place: Path, authority: ClusterAuthority
) -> Setup:
    tls = _credential(authority) if kind == "tls" else None
    config = {"protocol": kind, "tls": tls, "dask_config": _dask_config()}
    (place / "config.json").write_text(json.dumps(config))
    scheduler = stack.enter_context(_peer("scheduler", place))
    told = place / "scheduler-at.json"
    until(told.exists, _START_S, [scheduler])
    address = json.loads(told.read_text())["address"]

    def recruit(number: int, workers: int) -> Measured:
        job = place / f"job-{number}"
        job.mkdir()
        own = {**config, "scheduler": address, "name": f"job-{number}", "workers": workers}
        (job / "config.json").write_text(json.dumps({**own, "memory_bytes": 2**31}))
        return _peer("workers", job)

    return Setup(kind, scheduler, _client(address, tls), recruit=recruit)


def _peer(role: str, place: Path) -> Measured:
    root = Path(__file__).parents[1]
    argv = ["python", "-c", _AT_ROOT, str(root), "peers", role, str(place / "config.json")]
    return Measured(argv, place)


# As `python -m bench.peers`, from any working directory.
_AT_ROOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); del sys.argv[:2]; "
    "from bench.peers import main; main()"
)


# --- through the relay ---------------------------------------------------------------------------


def _relayed(
    stack: contextlib.ExitStack, kind: str, place: Path, authority: ClusterAuthority
) -> Setup:
    folder = ClusterFolder(place)
    relay, access = _relay(stack, place / "relay")
    empty = relay.rss_bytes()
    token = sign(
        Lease("owner", "bench", _DOMAIN, _now() + _HOUR, dial=(f"*.{_DOMAIN}",)), access.key
    )
    reach = {"scope": "hub", "dial": access.dial, "token": token}
    tls = _credential(authority)
    folder.write(
        "scheduler.json",
        {
            "bind": "127.0.0.1",
            "reach": reach,
            "tls": tls,
            "dashboard_address": None,
            "dask_config": _nested(_dask_config()),
        },
    )
    scheduler = stack.enter_context(
        Measured(["python", "-m", "dask_offload.scheduler", str(place)], place)
    )
    until((place / "scheduler-at.json").exists, _START_S, [scheduler])
    address = folder.read("scheduler-at.json")["address"]
    jobs = _worker_jobs(address, access, authority, place)

    def recruit(number: int, workers: int) -> Measured:
        key = f"{_DOMAIN}-{number}"
        spec, secrets = jobs.prepare("here", workers, [key])
        job = place / f"job-{number}"
        job.mkdir()
        for name, content in secrets[key].items():
            (job / name).write_bytes(content)
        argv = [sys.executable, str(jobs.agent), *spec.command[2:]]
        return Measured(argv, job)

    made = Setup(kind, scheduler, _client(address, tls, Reach(**reach)), relay, empty)
    made.recruit = recruit
    return made


def _relay(stack: contextlib.ExitStack, place: Path) -> tuple[Measured, RelayAccess]:
    import psutil

    place.mkdir()
    key = place / "key"
    argv = ["--public", "127.0.0.1:0", "--dial", "127.0.0.1:0", "--key-file", str(key)]
    relay = stack.enter_context(Measured(["python", "-m", "offload_cli", "relay", *argv], place))

    def line() -> str:
        return next((t for t in relay.log.read_text().splitlines() if "relay listens" in t), "")

    said = until(line, _START_S, [relay])
    numbers = [int(word.strip(",")) for word in said.split() if word.strip(",").isdigit()]
    public, dial = numbers[-2:]
    assert psutil.pid_exists(relay.popen.pid)
    url = f"ws://127.0.0.1:{public}"
    return relay, RelayAccess(url, f"127.0.0.1:{dial}", key.read_bytes())


def _worker_jobs(
    address: str, access: RelayAccess, authority: ClusterAuthority, place: Path
) -> WorkerJobs:
    return WorkerJobs(
        domain=_DOMAIN,
        user="bench",
        scheduler=address,
        relay=access,
        credential=functools.partial(authority.issue, "worker"),
        agent=write_worker_agent(place),
        image=ImageRef("here", python=sys.executable),
        unit=Resources(1, 2**31),
        walltime=_HOUR,
        queue_budget=_HOUR,
        unreachable=timedelta(minutes=5),
        places={"here": SitePlace("here", shared=True, bind="127.0.0.1")},
        settings={
            "versions": {},
            "version_check": "strict",
            "preload": [],
            "dask_config": {},
            "worker_config": _dask_config(),
            "register_timeout_s": 300,
        },
        environment={},
        labels={},
    )


def _now():
    from datetime import UTC, datetime

    return datetime.now(UTC)
