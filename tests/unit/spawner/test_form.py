"""What the spawn form offers to whom, and what it preselects."""

from datetime import timedelta

import pytest

from interlink_spawner.desk import Seen, sites_in_order
from interlink_spawner.form import form_of
from interlink_spawner.options import read_form, resolve_session
from interlink_spawner.wording import count, render_range, wait_text
from offload_sites.jobs import SiteHealth, SiteState
from offload_sites.ledger_records import Waits
from offload_sites.load import parse_catalog
from tests.support.sessionkit import NOW, at

CATALOG = parse_catalog("""
sites:
  hub: {kind: kubernetes, title: Hub, max_walltime: 24h}
  naples: {kind: htcondor-ce, title: Naples, collector: "a.example.org:9619", max_walltime: 48h}
  bari: {kind: htcondor-ce, title: Bari, collector: "b.example.org:9619", max_walltime: 48h}
  desk: {kind: local, title: Desk, max_walltime: 24h, home: "/home/{user}"}
images:
  lab: {title: Lab, cvmfs: /cvmfs/example.org/lab:v1, docker: example.org/lab:v1, description: With ROOT}
  other: {title: Other, cvmfs: /cvmfs/example.org/other:v2}
  local: {title: Local, python: current}
profiles:
  small:
    title: Small, on this hub
    sites: [hub]
    images: [lab]
    resources: {cpus: 2, memory: 4GiB}
  htc:
    title: HTC cores
    description: Analysis of a few files
    sites: [naples, bari]
    images: [lab, other, {pattern: '/cvmfs/example\\.org/.+'}]
    resources: {cpus: {choices: [1, 4, 8]}, memory: {per_cpu: 4GiB}}
    walltime: {default: 8h, max: 48h}
  desk:
    title: Here
    sites: [desk]
    images: [local]
    resources: {cpus: 1, memory: 1GiB}
    groups: [/desk]
  gpu:
    title: 1 × A100
    sites: [naples]
    images: [lab]
    resources: {cpus: 8, memory: 60GiB, gpus: 1}
    groups: [/gpu]
""")

UP = SiteHealth(SiteState.UP)
FULL = SiteHealth(SiteState.FULL, "14 jobs wait")
DOWN = SiteHealth(SiteState.DOWN, "maintenance until 18:00")


def form(*, groups=(), last=None, wanted=None, waits=None, **health):
    seen = {"hub": UP, "naples": UP, "bari": UP, **health}
    return form_of(
        CATALOG,
        groups=groups,
        seen={name: Seen(state, NOW) for name, state in seen.items() if state},
        waits=lambda profile, site: (waits or {}).get(site, Waits()),
        last=last,
        wanted=wanted,
        now=at(12),
    )


def card(shown, name):
    return next(card for card in shown.cards if card.name == name)


def checked(choices):
    return next(choice.value for choice in choices if choice.checked)


def test_a_profile_of_a_group_is_absent_for_others():
    assert [one.name for one in form().cards] == ["small", "htc"]
    assert card(form(groups={"/gpu", "/x"}), "gpu").groups == ("/gpu",)


def test_the_first_profile_is_preselected_and_then_last_times():
    assert [one.checked for one in form().cards] == [True, False]
    last = form(last={"profile": "htc", "cpus": 4, "walltime": "2h", "image": "other"})
    htc = card(last, "htc")
    assert htc.checked
    assert checked(htc.cpu_choices) == "4"
    assert checked(htc.walltimes) == "2h"
    assert checked(htc.images) == "other"


def test_numbers_are_ranges_where_there_is_a_choice():
    htc, small = card(form(), "htc"), card(form(), "small")
    assert (htc.cpus, htc.memory) == ("1–8", "4–32 GiB")
    assert (small.cpus, small.memory, small.gpus) == ("2", "4 GiB", 0)


def test_a_profile_whose_sites_are_all_down_cannot_be_chosen():
    shown = form(naples=DOWN, bari=DOWN, last={"profile": "htc"}, groups={"/gpu"})
    htc = card(shown, "htc")
    assert htc.disabled
    assert not htc.checked
    assert card(shown, "small").checked
    assert htc.sites[0].notes == ("Maintenance until 18:00", "This profile cannot start now.")
    assert not shown.again.possible
    assert not card(form(naples=DOWN), "htc").disabled


def test_a_site_that_was_not_asked_yet_can_be_chosen():
    shown = form(hub=None, naples=None)
    assert card(shown, "small").sites[0].tag.word == "Not asked yet"
    assert not card(shown, "small").disabled


def test_the_shortest_wait_is_named():
    waits = {
        "naples": Waits(20, timedelta(minutes=30), timedelta(hours=1)),
        "bari": Waits(20, timedelta(minutes=3), timedelta(minutes=12)),
    }
    htc = card(form(waits=waits, naples=FULL), "htc")
    assert htc.site_choices[0].label == "Shortest wait (now Bari)"
    assert htc.when == "Bari: Up. Usually starts in 3–12 min."
    assert htc.sites[0].notes == ("14 jobs wait", "Usually starts in 30 min – 1 h")
    assert card(form(), "small").site_choices == ()


def test_last_time_is_told_with_whether_it_can_be_had_again():
    again = form(last={"profile": "htc", "cpus": 8}).again
    assert (again.what, again.tag) == ("HTC cores, 8 CPUs, 32 GiB, 8 h", "lab:v1")
    assert again.possible
    gone = form(last={"profile": "gone"}).again
    assert not gone.possible
    assert "there is no profile 'gone'" in gone.note
    assert form(last={"profile": ["x"]}).again is None
    assert form().again is None


def test_what_came_back_with_an_error_keeps_all_choices():
    wanted = {"profile": "htc", "cpus": 4, "walltime": "99h", "image": "/cvmfs/elsewhere"}
    htc = card(form(wanted=wanted, last={"profile": "small"}), "htc")
    assert htc.checked
    assert checked(htc.cpu_choices) == "4"
    assert checked(htc.walltimes) == "8h"
    assert checked(htc.images) == "/"
    assert htc.free_image == "/cvmfs/elsewhere"


def test_files_say_where_home_is_not():
    assert card(form(), "small").files == "Your home folder is mounted."
    assert "Naples and Bari cannot mount it" in card(form(), "htc").files
    desk = card(form(groups={"/desk"}), "desk")
    assert desk.files_kept
    assert "a folder of your own there" in desk.files


def test_whatever_is_preselected_is_accepted():
    for one in form(groups={"/gpu"}).cards:
        fields = {"profile": [one.name]}
        for field, choices in (
            ("image", one.images),
            ("cpus", one.cpu_choices),
            ("walltime", one.walltimes),
            ("site", one.site_choices),
        ):
            if choices:
                fields[f"{one.name}.{field}"] = [checked(choices)]
        assert resolve_session(CATALOG, read_form(fields), groups={"/gpu"}).profile == one.name


def test_every_walltime_on_offer_is_accepted():
    for walltime in card(form(), "htc").walltimes:
        options = {"profile": "htc", "walltime": walltime.value}
        assert resolve_session(CATALOG, options, groups=()).profile == "htc"


# --- which site ----------------------------------------------------------------------------------


def order(waits=None, **states):
    seen = {name: Seen(SiteHealth(state), NOW) for name, state in states.items()}
    sites = ["a", "b", "c"]
    known = {name: Waits(20, timedelta(minutes=m), None) for name, m in (waits or {}).items()}
    return list(sites_in_order("p", sites, seen, lambda _, site: known.get(site, Waits())))


def test_the_catalog_decides_between_equals():
    assert order(a=SiteState.UP, b=SiteState.UP, c=SiteState.UP) == ["a", "b", "c"]


def test_the_shortest_wait_comes_first_among_the_healthy():
    states = {"a": SiteState.FULL, "b": SiteState.FULL, "c": SiteState.UP}
    assert order({"a": 30, "b": 3, "c": 20}, **states) == ["b", "c", "a"]


def test_a_site_that_is_down_comes_last_and_a_silent_one_before_it():
    assert order(a=SiteState.DOWN, c=SiteState.DEGRADED) == ["c", "b", "a"]


def test_a_free_site_without_experience_gets_some_and_a_full_one_waits():
    assert order({"a": 3}, a=SiteState.UP, b=SiteState.UP, c=SiteState.FULL) == ["b", "a", "c"]


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low_s", "high_s", "text"),
    [
        (170, 700, "3–12 min"),
        (2400, 7200, "40 min – 2 h"),
        (5, 20, "5–20 s"),
        (30, 90, "30 s – 2 min"),
        (60, 60, "1 min"),
        (3700, 4000, "1 h 10 min"),
        (3700, 9000, "1 h 10 min – 2 h 30 min"),
        (7200, 18000, "2–5 h"),
    ],
)
def test_ranges_are_as_coarse_as_an_estimate_is(low_s, high_s, text):
    assert render_range(timedelta(seconds=low_s), timedelta(seconds=high_s)) == text


def test_waits_are_ranges_and_nothing_without_experience():
    assert wait_text(Waits(9)) == "Usual wait not known yet"
    assert wait_text(_waits(5, 40)) == "Usually starts within 1 min"
    assert wait_text(_waits(180, 720)) == "Usually starts in 3–12 min"
    assert wait_text(_waits(2400, 7200)) == "Usually starts after 40 min – 2 h"


def test_counts_have_their_noun():
    assert (count(1, "CPU"), count(3480, "CPU")) == ("1 CPU", "3,480 CPUs")


def _waits(low_s, high_s):
    return Waits(20, timedelta(seconds=low_s), timedelta(seconds=high_s))
