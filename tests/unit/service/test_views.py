"""What pages show: words for states, numbers, problems taken apart."""

from datetime import UTC, datetime, timedelta

from offload_service import views
from offload_sites.jobs import AgentState, JobState, SiteHealth, SiteState
from offload_sites.ledger import JobRecord, Usage, Waits
from offload_sites.load import parse_catalog

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)
CATALOG = parse_catalog("""
sites:
  farm: {kind: local, title: The farm, max_walltime: 2h}
  annex: {kind: local, title: The annex, max_walltime: 2h}
images:
  one: {title: One, python: current}
profiles:
  cores:
    title: Cores
    sites: [farm, annex]
    images: [one]
    resources: {cpus: {choices: [4, 1]}, memory: {per_cpu: 2GiB}}
    groups: [/gpu]
""")


def test_sites_have_their_state_in_words_and_what_runs_there():
    usage = [
        Usage("alice", "farm", "cores", "workers", 30, 20, 1200, 2400, 1, 0),
        Usage("bob", "farm", "cores", "session", 2, 1, 0, 8, 1, 4),
    ]
    waits = {
        ("cores", "farm"): Waits(20, timedelta(minutes=3), timedelta(minutes=12)),
        ("gpu", "farm"): Waits(20, timedelta(seconds=20), timedelta(minutes=5)),
        ("old", "farm"): Waits(3),
    }
    health = {"farm": SiteHealth(SiteState.FULL, "all slots are taken")}
    farm, annex = views.site_views(CATALOG, health, usage, waits)
    assert (farm.state.text, farm.state.icon, farm.reason) == (
        "Full",
        "full",
        "all slots are taken",
    )
    assert (farm.sessions, farm.workers) == ("2", "1,200")
    assert (farm.jobs_running, farm.jobs_waiting, farm.cpus, farm.gpus) == (
        "21",
        "11",
        "2,408",
        "4",
    )
    assert farm.waits == "20 s to 12 min"
    assert (annex.state.text, annex.cpus, annex.waits) == ("No answer", "–", "not known yet")


def test_profiles_have_their_ranges_and_who_may_use_them():
    [cores] = views.profile_views(
        CATALOG, [Usage("alice", "farm", "cores", "workers", 3, 2, 12, 24, 1, 0)]
    )
    assert (cores.cpus, cores.memory, cores.gpus) == ("1–4", "2 GiB–8 GiB", "–")
    assert (cores.sites, cores.who) == ("The farm, The annex", "group /gpu")
    assert (cores.users, cores.jobs) == ("1", "3")


def job(**changes):
    fields = {"key": "c-1", "user": "a", "site": "farm", "profile": "cores", "purpose": "workers"}
    return JobRecord(**{**fields, "submitted": T0, "workers": 4, **changes})


def shown(**changes):
    [view] = views.job_views(
        [job(**changes)], {"farm": "The farm"}, ["c"], T0 + timedelta(minutes=5)
    )
    return view


def test_both_axes_of_a_job_are_shown_in_words():
    assert (shown().state.text, shown().agent.text) == ("Submitted", "–")
    silent = shown(handle="farm:1", state=JobState.UNKNOWN)
    assert silent.state.text == "No answer"
    lost = shown(handle="farm:1", state=JobState.RUNNING, agent=AgentState.LOST)
    assert (lost.state.text, lost.agent.text) == ("Running", "Connection lost")
    ended = shown(state=JobState.TIMED_OUT, agent=AgentState.LOST, ended=T0 + timedelta(minutes=4))
    assert (ended.state.text, ended.agent.text, ended.age) == ("Time is up", "–", "1 min")
    assert all(state in views._JOB for state in JobState)
    assert all(state in views._SITE for state in SiteState)


def test_a_job_is_called_as_its_site_calls_it_and_leads_to_its_log_while_there_is_one():
    view = shown(handle="farm:123.0", group="c")
    assert (view.handle, view.kind, view.cluster, view.site) == (
        "123.0",
        "workers, 4",
        "c",
        "The farm",
    )
    assert shown(purpose="session", group="lab").cluster == ""
    assert shown(purpose="session").kind == "session"


def test_problems_are_taken_apart_into_line_path_and_message():
    problems = views.problem_views(
        [
            "catalog.yaml:6: sites.cnaf.max_walltime: expected a duration: 'x', got '48 hours'",
            "catalog.yaml:3: not valid YAML: this\nand that",
            "catalog.yaml: cannot be read: No such file or directory",
        ]
    )
    assert [(p.line, p.path) for p in problems] == [
        (6, "sites.cnaf.max_walltime"),
        (3, ""),
        (0, ""),
    ]
    assert problems[0].message == "expected a duration: 'x', got '48 hours'"
    assert problems[1].message == "not valid YAML: this\nand that"
    lines = views.numbered("a\nb\nc", problems)
    assert [(line.number, line.bad) for line in lines] == [(1, False), (2, False), (3, True)]
