"""The pages: who sees what, and that nobody's text becomes HTML."""

import json
from html.parser import HTMLParser
from urllib.parse import urlencode

import pytest

from tests.support.servicedesk import Desk
from tests.support.servicekit import PREFIX
from tests.support.waiting import eventually

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"


@pytest.fixture
async def desk(tmp_path, monkeypatch):
    async with Desk(tmp_path, monkeypatch) as desk:
        yield desk


class Page(HTMLParser):
    """What is on a page: its elements by name, and its text."""

    def __init__(self, answer):
        super().__init__()
        self.code, self.headers = answer.code, answer.headers
        self.tags, self.text, self.links = [], "", []
        self.feed(answer.body.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def scripts(self):
        """Return all that would run."""
        found = [
            a for tag, a in self.tags if tag == "script" and not a.get("src", "").startswith(PREFIX)
        ]
        found += [a for _, a in self.tags if any(name.startswith("on") for name in a)]
        return found + [a for tag, a in self.tags if tag in ("img", "iframe", "object")]


async def page(desk, token, path, method="GET", body=None):
    return Page(await desk.request(token, method, path, body))


async def attacked(desk):
    """Make a cluster of alice whose site says, and whose job prints, what should not run."""
    notebook = await desk.notebook()
    await notebook.beat()
    await notebook.scale(4)
    first, second = await notebook.submitted(2)
    desk.farm.start(first)
    desk.farm.print(first, ATTACK, ATTACK)
    desk.farm.hold(second, said=ATTACK, hint=ATTACK)
    desk.farm.fail(first, reason=ATTACK, said=ATTACK)

    async def told():
        await notebook.beat()
        jobs = (await desk.call(desk.alice, "GET", "/jobs?ended=yes"))[1]
        return {job["state"] for job in jobs} >= {"failed", "held"}

    await eventually(told)
    return notebook, first


async def test_what_sites_and_jobs_say_is_shown_as_text_on_every_page(desk):
    notebook, key = await attacked(desk)
    desk.catalog.write_text(f"sites: {{a: {json.dumps(ATTACK)}}}\n")

    async def broken():
        return (await desk.call(desk.root, "GET", "/catalog"))[1]["problems"]

    await eventually(broken)
    for token, path, shown in (
        (desk.alice, "/", ATTACK),
        (desk.alice, f"/clusters/{notebook.id}/logs", ATTACK),
        (desk.alice, f"/clusters/{notebook.id}/logs?job={key}", ATTACK),
        (
            desk.alice,
            f"/clusters/{notebook.id}/logs?job=%3Cscript%3Ealert(1)%3C/script%3E",
            "<script>",
        ),
        (desk.root, "/admin", "expected a mapping"),
        (desk.alice, "/%3Cscript%3Ealert(1)%3C/script%3E", "no such page"),
    ):
        found = await page(desk, token, path)
        assert found.scripts() == [], path
        assert shown in found.text, path
        assert "script-src" in found.headers["Content-Security-Policy"] or (
            "default-src 'self'" in found.headers["Content-Security-Policy"]
        )


async def test_the_page_lists_ones_own_clusters_and_jobs_with_reasons(desk):
    notebook, _ = await attacked(desk)
    his = await desk.notebook(desk.bob)
    mine = await page(desk, desk.alice, "/")
    assert notebook.id in mine.text
    assert "Held" in mine.text
    assert "Failed" in mine.text
    assert his.id not in mine.text
    other = await page(desk, desk.bob, "/")
    assert notebook.id not in other.text
    assert "Sites and jobs" not in other.text


@pytest.mark.parametrize(("method", "path"), [("GET", "logs"), ("POST", "end"), ("POST", "retry")])
async def test_nobody_sees_or_touches_the_cluster_of_another(desk, method, path):
    notebook = await desk.notebook()
    body = b"" if method == "POST" else None
    found = await page(desk, desk.bob, f"/clusters/{notebook.id}/{path}", method, body)
    assert found.code == 404
    assert "You have no cluster" in found.text
    assert (await desk.call(desk.alice, "GET", f"/clusters/{notebook.id}"))[1]["ending"] == ""


async def test_who_has_not_signed_in_is_sent_to_the_hub(desk):
    answer = await desk.request(None, "GET", "/")
    assert answer.code == 302
    assert answer.headers["Location"].startswith("/hub/api/oauth2/authorize?")
    notebook = await desk.notebook()
    answer = await desk.request(None, "POST", f"/clusters/{notebook.id}/end", b"")
    assert answer.code == 403


async def test_a_form_of_another_site_does_nothing(desk):
    notebook = await desk.notebook()
    answer = await desk.request(
        None,
        "POST",
        f"/clusters/{notebook.id}/end",
        urlencode({"_xsrf": "guessed"}).encode(),
        Cookie=f"service-offload={desk.alice}; _xsrf=guessed",
        Content_Type="application/x-www-form-urlencoded",
    )
    assert answer.code == 403
    assert (await desk.call(desk.alice, "GET", f"/clusters/{notebook.id}"))[1]["ending"] == ""


async def test_a_cluster_is_ended_from_the_page(desk):
    notebook = await desk.notebook()
    await notebook.beat()
    await notebook.scale(2)
    await notebook.submitted(1)
    answer = await desk.request(desk.alice, "POST", f"/clusters/{notebook.id}/end", b"")
    assert (answer.code, answer.headers["Location"]) == (303, PREFIX)
    await eventually(lambda: _gone(desk))
    assert "its user has ended it" in (await notebook.beat())[1]["message"]


async def _gone(desk):
    return (await desk.call(desk.alice, "GET", "/clusters"))[1] == []


async def test_the_administrator_sees_sites_profiles_jobs_of_all_and_the_catalog(desk):
    for token in (desk.alice, desk.bob):
        notebook = await desk.notebook(token)
        await notebook.beat()
        await notebook.scale(2)
        await notebook.submitted(1)

    async def recorded():
        return len((await desk.call(desk.root, "GET", "/jobs?all=yes"))[1]) == 2

    await eventually(recorded)
    desk.farm.silent = True
    found = await page(desk, desk.root, "/admin")
    assert found.code == 200
    for word in (
        "The farm",
        "local",
        "Farm cores",
        "alice",
        "bob",
        "group /gpu",
        "workers, 2",
        "kind: local",
    ):
        assert word in found.text, word
    assert "Sites and jobs" in (await page(desk, desk.root, "/")).text
    assert (await page(desk, desk.alice, "/admin")).code == 403


async def test_a_draft_of_the_catalog_is_checked_with_lines_and_not_used(desk):
    draft = desk.catalog.read_text().replace("groups: [/gpu]", "grops: [/gpu]")
    body = urlencode({"yaml": draft.replace("\n", "\r\n")}).encode()
    answer = await desk.request(
        desk.root, "POST", "/admin", body, Content_Type="application/x-www-form-urlencoded"
    )
    found = Page(answer)
    line = draft.splitlines().index("    grops: [/gpu]") + 1
    assert f"Line {line}" in found.text
    assert "did you mean 'groups'?" in found.text
    assert f"▲ {line}" in found.text
    assert "not in use" in found.text
    assert (await desk.call(desk.root, "GET", "/catalog"))[1]["problems"] == []
    # What was typed is what is shown again, to the letter.
    assert draft in found.text


async def test_health_needs_no_sign_in_and_files_are_served(desk):
    assert (await desk.request(None, "GET", "/health")).body == b"ok\n"
    assert (await desk.request(None, "GET", "/static/offload.css")).code == 200
    assert (await desk.request(None, "GET", "/static/../app.py")).code in (403, 404, 302)
