"""Who may hold a net at the relay, and for how long it is kept."""

from datetime import UTC, datetime

import pytest

from offload_relay.lease import Lease
from offload_relay.protocol import CloseCode, Ended, Endpoint, Limits
from offload_relay.server.endpoints import Directory, Phase, RefusedError

LIMITS = Limits(endpoints=2, lost_grace_s=90, owner_grace_s=600, ended_keep_s=300)
NAME = "127.0.0.1.j1.naples.c7:40001"


def lease(job="c7-1", net="j1.naples.c7", **more):
    return Lease("agent", "alice", "c7", datetime(2030, 1, 1, tzinfo=UTC), job=job, net=net, **more)


@pytest.fixture
def directory():
    return Directory(LIMITS)


def connected(directory, instance="first-agent", now_s=0.0):
    return directory.connect(lease(), instance, now_s)


def test_a_registered_endpoint_is_found_until_the_agent_is_lost(directory):
    agent = connected(directory)
    assert directory.register(agent, NAME) == ""
    assert directory.lookup(Endpoint.parse(NAME)) is agent
    directory.lose(agent, 1.0)
    assert directory.lookup(Endpoint.parse(NAME)) is None


def test_a_lost_agent_comes_back_and_nobody_else_may_take_its_place_meanwhile(directory):
    agent = connected(directory)
    directory.lose(agent, 10.0)
    with pytest.raises(RefusedError) as refused:
        directory.connect(lease(), "a-thief", 11.0)
    assert refused.value.code is CloseCode.HELD_BY_ANOTHER
    assert not refused.value.code.final
    assert connected(directory, now_s=12.0) is agent
    assert agent.phase is Phase.CONNECTED


def test_an_agent_that_came_back_registers_anew(directory):
    agent = connected(directory)
    directory.register(agent, NAME)
    directory.lose(agent, 10.0)
    connected(directory, now_s=12.0)
    assert directory.lookup(Endpoint.parse(NAME)) is None


def test_after_the_grace_time_another_agent_may_have_the_job(directory):
    directory.lose(connected(directory), 10.0)
    directory.sweep(100.0)
    with pytest.raises(RefusedError):
        connected(directory, "second-agent", 100.0)
    directory.sweep(100.1)
    assert connected(directory, "second-agent", 100.2).instance == "second-agent"


def test_a_job_that_ended_may_be_started_again_by_its_site(directory):
    agent = connected(directory)
    directory.end(agent, Ended(137, "the site ended this job"), 5.0)
    again = connected(directory, "second-agent", 6.0)
    assert again is not agent
    assert list(directory.agents()) == [again]


def test_last_words_are_kept_for_the_owner_and_then_forgotten(directory):
    agent = connected(directory)
    directory.end(agent, Ended(3, "why", "what to do"), 5.0)
    assert agent.describe()["reason"] == "why"
    directory.sweep(305.0)
    assert list(directory.agents()) == [agent]
    directory.sweep(305.1)
    assert not list(directory.agents())


def test_another_jobs_lease_for_the_same_net_is_refused(directory):
    connected(directory)
    with pytest.raises(RefusedError):
        directory.connect(lease(job="c7-2"), "first-agent", 1.0)


def test_endpoints_are_limited_and_only_its_own(directory):
    agent = connected(directory)
    assert "not for" in directory.register(agent, "127.0.0.1.j2.naples.c7:40001")
    assert directory.register(agent, NAME) == ""
    assert directory.register(agent, NAME.replace("40001", "40002")) == ""
    assert "at most 2" in directory.register(agent, NAME.replace("40001", "40003"))
    assert directory.register(agent, NAME) == ""  # the same once more is no more


def test_parked_connections_need_their_agent(directory):
    with pytest.raises(RefusedError) as refused:
        directory.find(lease(), "first-agent")
    assert refused.value.code is CloseCode.TRY_AGAIN
    connected(directory)
    with pytest.raises(RefusedError):
        directory.find(lease(), "a-thief")
    assert directory.find(lease(), "first-agent")


def test_a_job_told_gone_is_told_now_or_when_it_comes(directory):
    here = connected(directory)
    domain = directory.domains["c7"]
    assert directory.tell_gone(domain, ["c7-1", "c7-2"], "scaled down") == [here]
    with pytest.raises(RefusedError) as refused:
        directory.connect(lease("c7-2", "j2.naples.c7"), "late-agent", 1.0)
    assert refused.value.code is CloseCode.GONE
    assert refused.value.reason == "scaled down"
    assert directory.connect(lease("c7-3", "j3.naples.c7"), "another-one", 1.0)


def test_agents_whose_owner_stays_away_are_told_gone(directory):
    agent = connected(directory)
    domain = directory.domains["c7"]
    domain.owners = 1
    assert directory.sweep(10_000.0) == []
    domain.owners = 0
    assert directory.sweep(10_600.0) == []
    assert directory.sweep(10_601.0) == [agent]
    with pytest.raises(RefusedError):
        directory.connect(lease("c7-9", "j9.naples.c7"), "late-agent", 10_602.0)


def test_a_lease_may_let_its_agent_go_on_for_longer_without_an_owner(directory):
    session = directory.connect(lease(unwatched_s=7200.0), "a-session", 0.0)
    assert directory.sweep(7200.0) == []
    assert directory.sweep(7201.0) == [session]


def test_an_owner_that_comes_back_may_start_jobs_again(directory):
    orphan = connected(directory)
    directory.sweep(0.0)
    assert directory.sweep(601.0) == [orphan]
    with pytest.raises(RefusedError):
        directory.connect(lease("c7-2", "j2.naples.c7"), "late-agent", 700.0)
    directory.watch("c7", 800.0)
    assert directory.connect(lease("c7-3", "j3.naples.c7"), "new-agent", 801.0)


def test_what_an_owner_has_said_stands_when_it_comes_back(directory):
    domain = directory.watch("c7", 0.0)
    directory.tell_gone(domain, [], "its cluster has ended")
    directory.watch("c7", 1.0)
    with pytest.raises(RefusedError):
        connected(directory, now_s=2.0)


def test_no_connection_outlives_its_lease(directory):
    agent = connected(directory)
    directory.watch("c7", 0.0)
    end_s = agent.lease.expires.timestamp()
    assert directory.sweep(end_s) == []
    assert directory.sweep(end_s + 31) == [agent]
    assert directory.domains["c7"].gone_reason("c7-1") == "its lease has expired"
    assert directory.domains["c7"].gone_reason("c7-2") is None


def test_an_agent_that_does_not_go_is_cut_off(directory):
    agent = connected(directory)
    assert directory.overdue(1e9) == []
    agent.told_gone_s = 100.0
    assert directory.overdue(100.0 + LIMITS.gone_grace_s) == []
    assert directory.overdue(101.0 + LIMITS.gone_grace_s) == [agent]
    directory.lose(agent, 300.0)
    assert directory.overdue(1e9) == []


def test_last_words_of_any_length_are_told_in_short(directory):
    agent = connected(directory)
    directory.end(agent, Ended(1, "r" * 60_000, "h" * 60_000), 0.0)
    assert len(agent.describe()["reason"] + agent.describe()["hint"]) == 4000


def test_it_is_remembered_for_days_that_a_domain_has_ended(directory):
    directory.domain("c7", 0.0)
    directory.tell_gone(directory.domains["c7"], [], "its cluster has ended")
    directory.sweep(5 * 86400.0)
    with pytest.raises(RefusedError):
        connected(directory, now_s=5 * 86400.0)
    directory.sweep(LIMITS.gone_keep_s + 1)
    assert "c7" not in directory.domains


def test_counters_never_fall(directory):
    agent = connected(directory)
    agent.bytes_in, agent.bytes_out = 10, 20
    directory.end(agent, Ended(0), 0.0)
    directory.sweep(1000.0)
    assert (directory.bytes_in, directory.bytes_out) == (10, 20)


def test_what_a_forgotten_agent_still_holds_is_to_be_closed(directory):
    lost = connected(directory)
    directory.lose(lost, 0.0)
    directory.sweep(90.0)
    assert directory.forgotten == []
    directory.sweep(91.0)
    assert directory.forgotten == [lost]
