"""What all spawners of a hub share, while something of it is not there."""

import asyncio
import importlib.resources
from datetime import UTC, datetime

import pytest

from interlink_spawner import desk as desk_module
from interlink_spawner.desk import Desk
from offload_relay.access import RelayAccess
from offload_relay.lease import new_key
from offload_sites.catalog import LocalSite
from offload_sites.errors import LedgerError
from offload_sites.jobs import SiteHealth, SiteState
from offload_sites.ledger import JobRecord, Ledger
from offload_sites.registry import SiteKind
from offload_sites.testing import FakeSite

RECORD = JobRecord("s1-1", "alice", "here", "plain", "session", datetime.now(UTC))


@pytest.fixture
def place(tmp_path):
    catalog = importlib.resources.files("offload_sites") / "default_catalog.yaml"
    (tmp_path / "catalog.yaml").write_text(catalog.read_text())
    return tmp_path


def a_desk(place, open_ledger=None):
    access = RelayAccess("ws://127.0.0.1:1", "", new_key(), gateway="127.0.0.1:2")
    return Desk(place / "catalog.yaml", access, open_ledger)


async def test_a_ledger_that_cannot_be_opened_keeps_nothing_but_new_jobs_and_is_tried_again(place):
    ledgers = []

    def open_ledger():
        # SQLite makes the file, and not the folder.
        ledgers.append(Ledger(f"sqlite:///{place}/later/ledger.sqlite"))
        return ledgers[-1]

    desk = a_desk(place, open_ledger)
    await desk.started()
    assert desk.catalog.sites
    with pytest.raises(LedgerError):
        await desk.record(RECORD)
    (place / "later").mkdir()
    await desk.record(RECORD)
    await desk.record(RECORD)
    (ledger,) = ledgers
    assert ledger.job("s1-1") is not None
    ledger.close()
    await desk.close()


async def test_a_failure_nobody_thought_of_is_no_end_of_news(place, monkeypatch):
    monkeypatch.setattr(desk_module, "_WAITS_S", 0.01)
    again = asyncio.Event()
    found = iter([LedgerError("it is away"), RuntimeError("nobody thought of it"), None])

    def open_ledger():
        if (error := next(found)) is not None:
            raise error
        ledger = Ledger(f"sqlite:///{place}/ledger.sqlite")
        loop.call_soon_threadsafe(again.set)
        return ledger

    loop = asyncio.get_running_loop()
    desk = a_desk(place, open_ledger)
    await desk.started()
    async with asyncio.timeout(10):
        await again.wait()
    await desk.close()


class OneWhoLetsNobodyElseIn(FakeSite):
    """A site that acts as its users, and refuses all but one."""

    def __init__(self, token):
        super().__init__("theirs", clock=lambda: datetime.now(UTC))
        self.token = token

    async def health(self):
        if self.token != "bob's":
            return SiteHealth(SiteState.DOWN, f"the token is {self.token}")
        return SiteHealth(SiteState.UP)


async def test_a_site_that_refuses_one_user_is_as_it_is_for_the_others(place, monkeypatch):
    kind = SiteKind(
        "local", LocalSite, lambda *args: OneWhoLetsNobodyElseIn(args[2]), per_user=True
    )
    monkeypatch.setattr(desk_module, "site_kinds", lambda: {"local": kind})
    monkeypatch.setattr(desk_module, "create_backend", kind.create)
    desk = a_desk(place)
    await desk.started()
    (site,) = desk.catalog.sites

    async def state(user):
        tokens = {site: f"{user}'s"}
        seen = await desk.healths([site], user=user, tokens=tokens.get, within_s=20)
        assert desk.health(site, user=user) is seen[site]
        return seen[site].health.state

    assert await state("alice") is SiteState.DOWN
    assert await state("bob") is SiteState.UP
    assert await state("alice") is SiteState.DOWN
    await desk.close()
