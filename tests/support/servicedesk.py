"""The service in the test's own event loop, on sites in memory: quick, and every state at will."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jupyterhub.services.auth import HubOAuth
from tornado.httpclient import AsyncHTTPClient

from dask_offload.tls import ClusterAuthority
from offload_relay.access import RelayAccess, user_label
from offload_relay.lease import Lease, new_key, sign
from offload_relay.server import Relay, RelaySettings
from offload_service import site_pool
from offload_service.app import open_service
from offload_service.settings import ServiceSettings, UserLimits
from offload_sites.testing import FakeSite
from tests.support.relaykit import FAST
from tests.support.servicekit import CATALOG, PREFIX, FakeHub
from tests.support.waiting import eventually, scaled

ACCESS = "access:services!service=offload"


class Desk:
    """A service, its sites, and three users: alice, bob (in /gpu), and root, an admin of the hub.

    Parameters
    ----------
    place : Path
        Where ledger and catalog are.
    monkeypatch
        Puts sites in memory in place of those of the catalog.
    ledger : str
        URL of the database; a file in `place` if not given.
    settings
        Fields of `ServiceSettings` that are to be otherwise.
    """

    def __init__(self, place: Path, monkeypatch, ledger: str = "", **settings: object) -> None:
        self.place = place
        self.ledger = ledger
        self.hub = FakeHub()
        self.alice = self.hub.user("alice")
        self.bob = self.hub.user("bob", "/gpu")
        self.root = self.hub.user("root", scopes=[ACCESS, "admin-ui"])
        self.key = new_key()
        self.sites: dict[str, FakeSite] = {}
        self.opened: list[tuple[str, object]] = []
        self.port = 0
        self._changes = settings
        self._stack = contextlib.AsyncExitStack()
        monkeypatch.setattr(site_pool, "create_backend", self._backend)
        self.catalog = place / "catalog.yaml"
        self.write_catalog()

    def write_catalog(self, *, seed: int = 0) -> None:
        """Write the catalog; a service that runs takes it up by itself."""
        self.catalog.write_text(
            CATALOG.format(per_job=2, limit="", seed=seed, place=self.place), "utf-8"
        )

    def _backend(self, name, model, tokens):
        self.opened.append((name, tokens))
        site = self.sites.setdefault(name, FakeSite(name, lambda: datetime.now(UTC)))
        return site.reopened()

    @property
    def farm(self) -> FakeSite:
        return self.sites["farm"]

    async def __aenter__(self) -> Desk:
        self.relay = await Relay(RelaySettings([self.key], limits=FAST)).__aenter__()
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()
        await self.relay.__aexit__(None, None, None)
        self.hub.close()

    async def start(self, **changes: object) -> None:
        """Start the service, also again, as after it was killed."""
        self._http = AsyncHTTPClient(force_instance=True)
        settings = ServiceSettings(
            catalog=self.catalog,
            ledger=self.ledger or str(self.place / "ledger.sqlite"),
            relay=RelayAccess(
                f"ws://127.0.0.1:{self.relay.public_port}",
                f"127.0.0.1:{self.relay.dial_port}",
                self.key,
            ),
            folder=self.place,
            **{
                "limits": UserLimits(clusters=5, workers=50),
                "owner_grace": timedelta(seconds=scaled(60)),
                **self._changes,
                **changes,
            },
        )
        auth = HubOAuth(
            api_url=self.hub.url,
            api_token="the service itself",
            oauth_client_id="service-offload",
            base_url=PREFIX,
            hub_prefix="/hub/",
            access_scopes={ACCESS},
            cache_max_age=1,
        )
        self.port = await self._stack.enter_async_context(
            open_service(settings, prefix=PREFIX, host="127.0.0.1", port=0, auth=auth)
        )

    async def stop(self) -> None:
        self._http.close()
        await self._stack.aclose()

    async def request(self, token, method, path, body=None, **headers):
        """Return the response to a request; bytes are sent as they are."""
        content = body if isinstance(body, bytes | None) else json.dumps(body)
        return await self._http.fetch(
            f"http://127.0.0.1:{self.port}{PREFIX.rstrip('/')}{path}",
            method=method,
            body=content,
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"token {token}"} if token else {}),
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
            allow_nonstandard_methods=True,
            follow_redirects=False,
            raise_error=False,
            request_timeout=scaled(40),
        )

    async def call(self, token, method, path, body=None, **headers):
        """Return status and JSON of a request to the API."""
        answer = await self.request(token, method, f"/api{path}", body, **headers)
        return answer.code, json.loads(answer.body)

    async def notebook(self, token=None, **body) -> Notebook:
        """Make a cluster as a supervisor does."""
        asked = {"api": 1, "name": "c", **body}
        status, created = await self.call(token or self.alice, "POST", "/clusters", asked)
        assert status == 201, created
        return Notebook(self, created)


class Notebook:
    """The supervisor of one cluster, as far as the service can tell."""

    def __init__(self, desk: Desk, created: dict) -> None:
        self.desk = desk
        self.created = created
        self.id = created["id"]
        self.secret = created["secret"]
        self.jobs: dict[str, list[int]] = {}
        self.retired: list[int] = []
        self.answer: dict = {}
        credential = ClusterAuthority("c").issue("worker", timedelta(hours=1))
        self.crew = {
            "scheduler": "relay://127.0.0.1.hub:8786",
            "tls": {"ca": credential.ca, "cert": credential.cert, "key": credential.key},
            "settings": {"versions": {"python": "3.11.7"}},
        }

    async def call(self, method, path="", body=None):
        return await self.desk.call(self.secret, method, f"/clusters/{self.id}{path}", body)

    async def beat(self, **fields):
        """Give a heartbeat, with the crew when it is asked for; return status and answer."""
        body = {
            "api": 1,
            "jobs": self.jobs,
            "retired": self.retired,
            "crew": self.crew if self.answer.get("crew", True) else None,
            **fields,
        }
        status, answer = await self.call("POST", "/heartbeat", body)
        if status == 200:
            self.answer = {**answer, "fleet": answer["fleet"] or self.answer.get("fleet")}
        return status, answer

    async def scale(self, workers: int):
        status, answer = await self.call("POST", "/scale", {"workers": workers})
        assert status == 200, answer
        return answer

    async def submitted(self, count: int) -> list[str]:
        """Return the keys of `count` jobs once their site has them."""
        site = self.desk.farm

        def there():
            keys = [key for key in site.jobs if key.startswith(f"{self.id}-")]
            return keys if len(keys) == count else None

        return await eventually(there)


def agent_lease(key: bytes, user: str, cluster: str, job: str) -> str:
    """Return the lease of an agent of a job at the farm."""
    domain = f"{cluster}.{user_label(user)}"
    lease = Lease(
        role="agent",
        user=user,
        domain=domain,
        expires=datetime.now(UTC) + timedelta(hours=1),
        job=job,
        net=f"j{job.rpartition('-')[2]}.farm.{domain}",
    )
    return sign(lease, key)
