"""The parts of pages that we render: whole, and with everything escaped."""

import json
from html.parser import HTMLParser

from interlink_spawner.form import form_of
from interlink_spawner.pages import _render, render_progress
from interlink_spawner.progress import progress_of
from offload_sites.jobs import JobHandle, JobState, SiteHealth, SiteState
from offload_sites.ledger_records import Waits
from offload_sites.load import parse_catalog
from tests.support.sessionkit import NOW, at, new_session, status
from tests.unit.spawner.test_form import CATALOG, Seen

HOSTILE = "<script>alert('1')</script>\"'&{{7*7}}"
_HOSTILE_CATALOG = """
sites: {a: {kind: htcondor-ce, collector: "a:9619", title: X, max_walltime: 1h}}
images: {i: {title: X, description: X, cvmfs: /cvmfs/i}}
profiles:
  p:
    title: X
    description: X
    sites: [a]
    images: [i, {pattern: '/cvmfs/.+'}]
    resources: {cpus: 1, memory: 1GiB}
    groups: [X]
"""
_VOID = {"input", "br", "meta", "link", "path", "circle", "use"}


class _Checker(HTMLParser):
    """Fails for a tag that is not closed in order, and collects what forms and ids there are."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.refs, self.names = [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        for name in ("for", "aria-labelledby", "aria-describedby"):
            self.refs += (values.get(name) or "").split()
        if tag == "script":
            raise AssertionError("a script came in as data")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


def check(html):
    checker = _Checker()
    checker.feed(html)
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids)), "an id twice"
    assert set(checker.refs) <= set(checker.ids), "a label of nothing"
    return html


def shown_form(catalog=CATALOG, **more):
    return form_of(
        catalog,
        groups={"/gpu"},
        seen={"naples": Seen(SiteHealth(SiteState.FULL, HOSTILE), NOW)},
        waits=lambda *_: Waits(),
        last=more.get("last"),
        wanted=more.get("wanted"),
        now=at(5),
    )


def test_the_form_is_whole_and_labels_name_what_there_is():
    html = check(_render("offload/form.html", form=shown_form(last={"profile": "htc"})))
    assert html.count('type="radio" name="profile"') == 3
    assert "Start again" in html
    assert 'form="again_form"' in html


def test_nothing_in_the_form_is_taken_for_html():
    catalog = parse_catalog(_HOSTILE_CATALOG.replace("X", json.dumps(HOSTILE)))
    form = form_of(
        catalog,
        groups={HOSTILE},
        seen={"a": Seen(SiteHealth(SiteState.FULL, HOSTILE), NOW)},
        waits=lambda *_: Waits(),
        last={"profile": "p", "image": HOSTILE},
        wanted={"profile": "p", "image": f"/cvmfs/{HOSTILE}"},
        now=at(5),
    )
    html = check(_render("offload/form.html", form=form))
    assert html.count("&lt;script&gt;") >= 8
    assert "{{7*7}}" in html


def test_a_hub_without_a_catalog_says_so():
    assert "catalog of this hub cannot be read" in check(_render("offload/form.html", form=None))


def test_what_a_site_says_is_shown_word_for_word_and_escaped():
    session = (
        new_session(title=HOSTILE, site_title=HOSTILE, image=HOSTILE)
        .submitted(JobHandle("farm", HOSTILE), at(1))
        .heard_site(status(JobState.HELD, HOSTILE, said=HOSTILE, hint=HOSTILE, since=at(1)), at(2))
    )
    page = progress_of(session, now=at(3), waits=Waits(), health=None, retry_s=15)
    html = check(render_progress(page))
    assert html.count("&lt;script&gt;") >= 8
