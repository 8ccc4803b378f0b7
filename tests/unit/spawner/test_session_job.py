"""The job of a session: what it may do at the relay, and what stays out of sight."""

import io
import json
import re
import zipfile
from datetime import UTC, datetime, timedelta

import pytest

from interlink_spawner.session_job import (
    AGENT_CONFIG,
    SESSION_CONFIG,
    SessionRequest,
    session_home,
    session_job,
    session_owner,
    write_session_agent,
)
from offload_relay.access import RelayAccess, site_label, user_label
from offload_relay.agent.config import load_config
from offload_relay.lease import may_dial, may_register, verify
from offload_relay.protocol import Endpoint
from offload_sites.catalog import LocalSite
from offload_sites.jobs import ImageRef, Resources

KEY = b"k" * 32
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
ALICE, BOB = user_label("alice"), user_label("bob")
HUB_TOKEN = "the-server's-own-hub-token"


def request(**changes):
    fields = {
        "user": "alice",
        "session": "s1f2e",
        "key": "s-alice-1f2e-1",
        "route": "/user/alice/",
        "site": "Naples CE",
        "site_title": "RAC Naples",
        "relay": RelayAccess("wss://hub.example.org/relay", "10.0.0.5:7001", KEY),
        "image": ImageRef("highrate", python="/opt/conda/bin/python3"),
        "resources": Resources(4),
        "walltime": timedelta(hours=8),
        "queue_budget": timedelta(hours=24),
        "asked": NOW,
        "environment": {"JUPYTERHUB_API_TOKEN": HUB_TOKEN},
        "arguments": ("--debug",),
    }
    return SessionRequest(**{**fields, **changes})


@pytest.fixture
def agent(tmp_path):
    return write_session_agent(tmp_path)


def told(agent, tmp_path, **changes):
    """Return the agent's configuration, its lease, and the session's own file."""
    _, secrets = session_job(request(**changes), agent)
    file = tmp_path / "agent.json"
    file.write_bytes(secrets[AGENT_CONFIG])
    config = load_config(file)
    return config, verify(config.lease, [KEY], NOW), json.loads(secrets[SESSION_CONFIG])


def test_everybody_at_the_site_sees_a_command_without_secrets(agent):
    spec, secrets = session_job(request(), agent)
    assert spec.command == ("/opt/conda/bin/python3", "offload-agent.pyz", "agent.json")
    assert spec.environment == {}
    assert spec.inputs == {"offload-agent.pyz": agent}
    assert HUB_TOKEN in secrets[SESSION_CONFIG].decode()
    assert HUB_TOKEN not in repr(spec) + repr(request())
    assert HUB_TOKEN not in secrets[AGENT_CONFIG].decode()


def test_a_session_answers_for_its_own_path_until_budget_and_walltime_are_over(agent, tmp_path):
    config, lease, session = told(agent, tmp_path)
    assert lease.route == session["route"] == "/user/alice/"
    assert lease.expires == NOW + timedelta(hours=32)
    assert lease.net == config.net == f"j1.{site_label('Naples CE')}.s1f2e.{ALICE}"
    assert lease.unwatched_s == 12 * 3600.0
    assert config.walltime_s == 8 * 3600.0


def test_a_session_reaches_its_users_clusters_and_nobody_elses(agent, tmp_path):
    _, lease, _ = told(agent, tmp_path)
    assert may_dial(lease, Endpoint("127.0.0.1", f"j1.naples.c7.{ALICE}", 40001))
    assert not may_dial(lease, Endpoint("127.0.0.1", f"j1.naples.c7.{BOB}", 40001))
    assert not may_dial(lease, Endpoint("127.0.0.1", "hub", 8081))
    assert may_register(lease, Endpoint("127.0.0.1", lease.net, 8888))
    assert not may_register(lease, Endpoint("127.0.0.1", f"j1.naples.c7.{ALICE}", 8888))


@pytest.mark.parametrize("user", ["alice", "a/../b", "{user}", "Ä b"])
def test_a_home_folder_is_below_the_one_in_the_catalog_whatever_the_user_is_called(user):
    site = LocalSite(kind="local", title="Here", max_walltime="8h", home="/home/{user}")
    home = session_home(site, user)
    assert re.fullmatch(r"/home/u-[a-z0-9-]+", home)
    assert home != session_home(site, user + "x")
    assert session_home(site.model_copy(update={"home": None}), user) == "job"


def test_the_hub_watches_one_session_and_dials_nothing():
    end = NOW + timedelta(hours=1)
    token = session_owner(request().relay, "alice", "s1f2e", "/user/alice/", end)
    lease = verify(token, [KEY], NOW)
    assert (lease.role, lease.domain, lease.dial) == ("owner", f"s1f2e.{ALICE}", ())
    assert (lease.domain, lease.route) == (request().domain, request().route)


def test_the_payload_travels_in_the_archive_without_the_rest_of_its_package(agent):
    with zipfile.ZipFile(io.BytesIO(agent.read_bytes())) as archive:
        names = [n for n in archive.namelist() if n.startswith("payload/interlink_spawner/")]
    assert names == [
        "payload/interlink_spawner/__init__.py",
        "payload/interlink_spawner/labextension/package.json",
        "payload/interlink_spawner/labextension/static/remoteEntry.js",
        "payload/interlink_spawner/session_image.py",
        "payload/interlink_spawner/session_node.py",
        "payload/interlink_spawner/session_payload.py",
    ]
