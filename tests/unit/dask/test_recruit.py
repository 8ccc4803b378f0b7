"""A job of workers gets what it needs in files of its own, and nothing secret anywhere else."""

import functools
import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from dask_offload.bundle import write_worker_agent
from dask_offload.recruit import WorkerJobs
from dask_offload.tls import ClusterAuthority
from offload_relay.access import RelayAccess, SitePlace, site_label
from offload_relay.agent.config import load_config
from offload_relay.lease import may_dial, may_register, verify
from offload_relay.protocol import Endpoint
from offload_sites.jobs import ImageRef, Resources

GIB = 2**30
KEY = b"k" * 32
SCHEDULER = "127.0.0.1.hub:8786"
KEYS = ("c7-1", "c7-2", "c7-3")


def crew(agent, **changes):
    fields = {
        "domain": "c7",
        "user": "alice",
        "scheduler": f"relay://{SCHEDULER}",
        "relay": RelayAccess("wss://hub.example.org/relay", "10.0.0.5:7001", KEY, ca="PEM of a CA"),
        "credential": functools.partial(ClusterAuthority("c7").issue, "worker"),
        "agent": agent,
        "image": ImageRef("highrate", python="/opt/python3"),
        "unit": Resources(2, 4 * GIB, 1),
        "walltime": timedelta(hours=8),
        "queue_budget": timedelta(hours=72),
        "unreachable": timedelta(minutes=5),
        "places": {
            "naples": SitePlace("naples", shared=True, bind="auto"),
            "leonardo": SitePlace("leonardo", shared=False, bind="127.0.0.1"),
        },
        "settings": {"versions": {"python": "3.11.7"}, "preload": ["uproot"]},
        "environment": {"X509_USER_PROXY": "/home/alice/proxy"},
        "labels": {"owner": "alice", "cluster": "alice-1", "profile": "htc"},
    }
    return WorkerJobs(**{**fields, **changes})


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    return write_worker_agent(tmp_path_factory.mktemp("agent"))


@pytest.fixture
def jobs(agent):
    return crew(agent)


def configs(secrets, key):
    return [json.loads(secrets[key][name]) for name in ("agent.json", "worker.json")]


def lease_of(secrets, key, now=None):
    return verify(configs(secrets, key)[0]["lease"], [KEY], now or datetime.now(UTC))


def hidden(secrets):
    """Return all that nobody else may read: leases, TLS keys, and the key that signs leases."""
    found = [KEY.decode()]
    for key in secrets:
        agent_config, worker = configs(secrets, key)
        found += [agent_config["lease"], *agent_config["lease"].split(".")[1:]]
        found += worker["tls"]["key"].splitlines()[1:-1]
    return found


# --- what everybody at the site can read ---------------------------------------------------------


def everything_in(path):
    """Return the bytes of the file at `path`; those of an archive unpacked, and as it is."""
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return b"\n".join([content, *(archive.read(name) for name in archive.namelist())])


def test_nothing_secret_is_in_what_others_at_the_site_can_read(jobs):
    spec, secrets = jobs.prepare("naples", 4, KEYS)
    public = "\n".join(
        [
            *spec.command,
            *(f"{k}={v}" for k, v in (*spec.environment.items(), *spec.labels.items())),
            *(f"{name} {path}" for name, path in spec.inputs.items()),
            *(everything_in(path).decode("latin-1") for path in spec.inputs.values()),
            repr(spec),
        ]
    )
    assert len(hidden(secrets)) > 3 * len(KEYS)
    assert [secret for secret in hidden(secrets) if secret in public] == []


def test_nothing_secret_is_in_the_repr_of_what_makes_jobs(jobs):
    _, secrets = jobs.prepare("naples", 4, KEYS)
    credential = jobs.credential(timedelta(hours=1))
    shown = f"{jobs!r} {jobs.relay!r} {credential!r}"
    private = [*hidden(secrets), *credential.key.splitlines()[1:-1]]
    assert [secret for secret in private if secret in shown] == []


def test_no_job_has_the_key_that_signs_leases_nor_the_dial_port_of_the_hub(jobs):
    _, secrets = jobs.prepare("naples", 4, KEYS)
    for files in secrets.values():
        content = b"".join(files.values())
        assert KEY not in content
        assert b"10.0.0.5:7001" not in content


def test_variables_of_the_profile_go_to_the_payload_and_not_into_the_queue(jobs):
    spec, secrets = jobs.prepare("naples", 4, KEYS)
    assert dict(spec.environment) == {}
    agent_config, _ = configs(secrets, "c7-1")
    assert agent_config["environment"]["X509_USER_PROXY"] == "/home/alice/proxy"


# --- the request ---------------------------------------------------------------------------------


def test_a_job_asks_for_what_all_its_workers_need(jobs):
    spec, _ = jobs.prepare("naples", 4, KEYS)
    assert spec.resources == Resources(8, 16 * GIB, 4)
    assert spec.walltime == timedelta(hours=8)
    assert spec.image == jobs.image


def test_a_job_runs_the_agent_with_the_python_of_its_image(jobs, agent):
    spec, secrets = jobs.prepare("naples", 4, KEYS)
    assert spec.command == ("/opt/python3", "offload-agent.pyz", "agent.json")
    assert spec.inputs == {"offload-agent.pyz": agent}
    assert set(secrets["c7-1"]) == {"agent.json", "worker.json"}


def test_who_looks_at_the_queue_sees_whose_job_it_is(jobs):
    spec, _ = jobs.prepare("naples", 4, KEYS)
    assert dict(spec.labels) == {
        "owner": "alice",
        "cluster": "alice-1",
        "profile": "htc",
        "workers": "4",
    }


# --- leases --------------------------------------------------------------------------------------


def test_each_job_has_a_lease_of_its_own(jobs):
    _, secrets = jobs.prepare("naples", 4, KEYS)
    leases = [lease_of(secrets, key) for key in KEYS]
    assert [lease.job for lease in leases] == list(KEYS)
    assert [lease.net for lease in leases] == [f"j{n}.naples.c7" for n in (1, 2, 3)]
    assert len({lease.id for lease in leases}) == 3
    assert {(lease.role, lease.user, lease.domain) for lease in leases} == {
        ("agent", "alice", "c7")
    }


def test_a_lease_lets_a_job_listen_in_its_own_net_only(jobs):
    _, secrets = jobs.prepare("naples", 4, KEYS)
    lease = lease_of(secrets, "c7-1")
    assert may_register(lease, Endpoint("10.1.2.3", "j1.naples.c7", 4000))
    for net in ("j2.naples.c7", "naples.c7", "c7", "hub", "j1.naples.c8"):
        assert not may_register(lease, Endpoint("10.1.2.3", net, 4000))


def test_a_lease_lets_a_job_dial_its_scheduler_and_its_fellow_workers_only(jobs):
    _, secrets = jobs.prepare("naples", 4, KEYS)
    lease = lease_of(secrets, "c7-1")
    assert lease.dial == (SCHEDULER, "*.c7")
    assert may_dial(lease, Endpoint("127.0.0.1", "hub", 8786))
    assert may_dial(lease, Endpoint("10.1.2.3", "j9.leonardo.c7", 4000))
    assert not may_dial(lease, Endpoint("127.0.0.1", "hub", 8787))
    assert not may_dial(lease, Endpoint("127.0.0.2", "hub", 8786))
    assert not may_dial(lease, Endpoint("10.1.2.3", "j9.leonardo.c8", 4000))


def test_a_lease_ends_with_the_queue_budget_and_the_walltime(jobs):
    before = datetime.now(UTC).replace(microsecond=0)
    _, secrets = jobs.prepare("naples", 4, KEYS)
    after = datetime.now(UTC)
    expires = lease_of(secrets, "c7-1").expires
    assert before + timedelta(hours=80) <= expires <= after + timedelta(hours=80)


# --- files of the job ----------------------------------------------------------------------------


def test_the_agent_can_read_its_configuration(jobs, tmp_path):
    _, secrets = jobs.prepare("naples", 4, KEYS)
    file = tmp_path / "agent.json"
    file.write_bytes(secrets["c7-2"]["agent.json"])
    config = load_config(file)
    assert (config.relay, config.relay_ca) == ("wss://hub.example.org/relay", "PEM of a CA")
    assert (config.job, config.net) == ("c7-2", "j2.naples.c7")
    assert config.walltime_s == 8 * 3600
    assert config.unreachable_s == 300
    assert config.drain_s < config.walltime_s
    assert config.payload[-2:] == ["dask_offload.worker", "worker.json"]


def test_the_starter_is_told_how_many_workers_of_which_size_to_run(jobs):
    _, secrets = jobs.prepare("naples", 4, KEYS)
    _, worker = configs(secrets, "c7-2")
    assert (worker["name"], worker["workers"]) == ("c7-2", 4)
    assert (worker["nthreads"], worker["memory_bytes"]) == (2, 4 * GIB)
    assert worker["scheduler"] == f"relay://{SCHEDULER}"
    assert (worker["versions"], worker["preload"]) == ({"python": "3.11.7"}, ["uproot"])


def test_workers_of_a_site_with_one_network_reach_each_other_directly(jobs):
    _, at_naples = jobs.prepare("naples", 4, KEYS)
    _, at_leonardo = jobs.prepare("leonardo", 4, KEYS)
    worker, other = configs(at_naples, "c7-1")[1], configs(at_leonardo, "c7-1")[1]
    assert (worker["scope"], worker["bind"]) == ("naples.c7", "auto")
    assert (other["scope"], other["bind"]) == ("j1.leonardo.c7", "127.0.0.1")


def test_the_certificate_of_workers_is_good_for_as_long_as_their_lease(jobs):
    _, secrets = jobs.prepare("naples", 4, KEYS)
    tls = configs(secrets, "c7-1")[1]["tls"]
    ends = x509.load_pem_x509_certificate(tls["cert"].encode()).not_valid_after_utc
    assert abs(ends - lease_of(secrets, "c7-1").expires) < timedelta(seconds=5)


def test_workers_are_told_the_settings_of_a_nanny_unless_the_profile_says_otherwise(agent):
    jobs = crew(agent, environment={"OMP_NUM_THREADS": "2"})
    _, secrets = jobs.prepare("naples", 4, KEYS)
    environment = configs(secrets, "c7-1")[0]["environment"]
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["MKL_NUM_THREADS"] == "1"


def test_any_name_of_a_site_makes_a_label_of_its_net(agent):
    for name in ("RAC_Naples", "1st", "a" * 60):
        label = site_label(name)
        jobs = crew(agent, places={name: SitePlace(label, shared=True, bind="auto")})
        _, secrets = jobs.prepare(name, 1, ("c7-1",))
        assert lease_of(secrets, "c7-1").net == f"j1.{label}.c7"


def test_the_archive_of_the_agent_holds_the_starter_and_none_of_the_hubs_side(agent):
    with zipfile.ZipFile(Path(agent)) as archive:
        ours = {Path(n).name for n in archive.namelist() if "dask_offload/" in n}
    assert ours == {"__init__.py", "comm.py", "gpus.py", "slots.py", "worker.py"}
