"""A snapshot of a fleet is the same on the other side."""

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from offload_sites.fleet_failures import Failure
from offload_sites.fleet_json import fleet_from_json, fleet_to_json
from offload_sites.fleet_plan import FleetJob
from offload_sites.fleet_view import FleetSnapshot, SiteTrouble
from offload_sites.jobs import AgentState, AgentStatus, JobHandle, JobState, JobStatus

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)
times = st.integers(0, 10**6).map(lambda s: T0 + timedelta(milliseconds=s))
texts = st.text(max_size=20)
statuses = st.builds(
    JobStatus,
    st.sampled_from(JobState),
    texts,
    texts,
    texts,
    st.none() | times,
    st.none() | st.integers(-64, 255),
    texts,
)
agents = st.builds(
    AgentStatus,
    st.sampled_from(AgentState),
    st.none() | times,
    texts,
    texts,
    st.none() | st.integers(-64, 255),
)
jobs = st.builds(
    FleetJob,
    key=st.just("c-1"),
    site=st.just("farm"),
    workers=st.integers(0, 99),
    submitted=times,
    handle=st.none() | st.just(JobHandle("farm", "12:3.0")),
    status=statuses,
    agent=agents,
    connected=st.none() | times,
    leaving=texts,
    silent=texts,
    cancel_asked=st.none(),
)
snapshots = st.builds(
    FleetSnapshot,
    st.integers(0, 10**5),
    st.lists(jobs, max_size=3).map(tuple),
    texts,
    st.lists(
        st.builds(
            Failure, st.just("c-1"), st.just("farm"), times, texts, texts, texts, st.booleans()
        ),
        max_size=2,
    ).map(tuple),
    st.dictionaries(
        st.just("farm"),
        st.builds(SiteTrouble, times, texts, times, texts, st.booleans(), st.integers(0, 9)),
    ),
    st.none() | times,
)


@given(snapshots)
def test_any_snapshot_comes_back_the_same(snapshot):
    assert fleet_from_json(json.loads(json.dumps(fleet_to_json(snapshot)))) == snapshot
