"""What a cluster is made of: the catalog, the caller's groups, limits, and the session it is in."""

import json
from datetime import timedelta

import pytest

from offload_relay.access import SitePlace
from offload_service.bodies import CreateBody
from offload_service.made import Made, make
from offload_service.settings import UserLimits
from offload_sites.errors import InvalidOptionsError
from offload_sites.jobs import Resources
from offload_sites.load import parse_catalog

CATALOG = parse_catalog(
    """
sites:
  farm: {kind: local, title: Farm, max_walltime: 2h, node: {cpus: 8, memory: 64GiB}}
  far: {kind: htcondor-ce, title: Far, max_walltime: 48h, collector: ce.example.org:9619, network: site}
images:
  one: {title: One, python: current, cvmfs: null}
  two: {title: Two, cvmfs: /cvmfs/x/two}
profiles:
  cores:
    title: Cores
    sites: [farm]
    images: [one]
    resources: {cpus: {choices: [1, 4]}, memory: {per_cpu: 2GiB}}
    preload: [uproot]
    environment: {A: b}
  far:
    title: Far cores
    sites: [far]
    images: [two]
    resources: {cpus: 1, memory: 1GiB}
    groups: [/far]
  lab: {title: Lab, for: [session], sites: [farm], images: [one], resources: {cpus: 1, memory: 1GiB}}
""".replace(", cvmfs: null", "")
)
LIMITS = UserLimits(queue_budget=timedelta(days=1), relay_grace=timedelta(minutes=5))


def made(groups=(), **body):
    return make(CreateBody(api=1, name="c", **body), CATALOG, frozenset(groups), LIMITS)


def test_it_has_what_the_profile_gives_and_how_many_workers_share_a_job():
    found = made(choice={"cpus": 4})
    assert (found.profile, found.unit) == ("cores", Resources(4, 8 * 2**30))
    assert found.sites["farm"].workers_per_job == 2
    assert found.sites["farm"].place == SitePlace(
        found.sites["farm"].place.label, True, "127.0.0.1"
    )
    assert (found.preload, found.environment) == (("uproot",), {"A": "b"})
    far = made(["/far"], choice={"profile": "far"})
    assert (far.sites["far"].place.shared, far.sites["far"].place.bind) == (True, "auto")


def test_what_a_notebook_asks_for_is_cut_to_what_a_user_may_have():
    found = made(queue_budget_s=30 * 86400, relay_grace_s=3600)
    assert (found.queue_budget, found.unreachable) == (timedelta(days=1), timedelta(minutes=5))
    found = made(queue_budget_s=3600, relay_grace_s=10)
    assert (found.queue_budget, found.unreachable) == (timedelta(hours=1), timedelta(seconds=10))
    assert found.lifetime == timedelta(hours=1) + found.walltime


def test_it_is_kept_as_json_and_comes_back_the_same():
    found = made(["/far"], choice={"profile": "far"})
    assert Made.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("session", "expected"),
    [
        ({"profile": "far", "image": "two"}, ("far", "two")),
        ({"profile": "lab", "image": "one"}, ("cores", "one")),
        ({"profile": "gone", "image": "gone"}, ("cores", "one")),
        ({"profile": None, "image": "two"}, ("cores", "one")),
        ({}, ("cores", "one")),
    ],
)
def test_what_is_not_asked_for_is_as_in_the_session_where_that_is_offered(session, expected):
    found = made(["/far"], session=session)
    assert (found.profile, found.image.name) == expected


def test_a_session_is_no_way_around_the_groups():
    assert made(session={"profile": "far"}).profile == "cores"
    with pytest.raises(InvalidOptionsError, match="there is no profile 'far'"):
        made(choice={"profile": "far"})


def test_what_is_asked_for_and_not_offered_is_refused_whatever_the_session_is():
    with pytest.raises(InvalidOptionsError, match="does not offer 3 CPUs"):
        made(session={"image": "one"}, choice={"cpus": 3})


def test_its_sites_can_be_put_into_another_order():
    found = made()
    both = Made(**{**found.__dict__, "sites": {"a": found.sites["farm"], "b": found.sites["farm"]}})
    assert list(both.ordered(["b", "a"]).sites) == ["b", "a"]
