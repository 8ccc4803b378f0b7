"""The payload of a session in a real agent behind a real gateway, with a small server for a Lab."""

import asyncio
import json
import os
import socket
import ssl
import stat
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from interlink_spawner.session_job import SESSION_CONFIG, SessionRequest, session_job
from interlink_spawner.session_job import write_session_agent as write_agent
from interlink_spawner.session_node import UnfitError, wait_for_hub
from offload_relay.access import RelayAccess
from offload_relay.owner import Owner
from offload_relay.protocol import EXIT_WALLTIME
from offload_sites.jobs import ImageRef, Resources
from tests.support.processes import processes_below
from tests.support.relaykit import AgentProcess
from tests.support.waiting import eventually, scaled

ROUTE = "/user/alice/"
HUB_TOKEN = "the-servers-own-hub-token"

# What a payload starts: it says what it was given, and serves.
SERVER = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path.endswith("/end"):
            os._exit(int(os.environ.get("CODE", "0")))
        said = json.dumps({{"argv": sys.argv, "environ": dict(os.environ), "cwd": os.getcwd()}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *_):
        pass
def ended(*_):
    pathlib.Path(sys.argv[0]).with_name("terminated").touch()
    os._exit(0)
signal.signal(signal.SIGTERM, ended)
url = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
ThreadingHTTPServer((url.hostname, url.port), Handler).serve_forever()
"""


class Hub:
    """Answers with the statuses of `answers`, and at last with 200."""

    def __init__(self, *answers, tls=None):
        self.left = list(answers)
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(hub.left.pop(0) if hub.left else 200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_port}/hub/api"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture
async def begin(gateway, tmp_path, hub):
    """Return what starts the job of a session as a site does."""

    async def start(server=SERVER, environment=None, **changes):
        folder = tmp_path / "job"
        folder.mkdir(mode=0o700)
        script = tmp_path / "serve"
        script.write_text(server)
        script.chmod(0o755)
        fields = {
            "user": "alice",
            "session": "s1",
            "key": "s1-1",
            "route": ROUTE,
            "site": "here",
            "site_title": "Here",
            "relay": RelayAccess(gateway.url, "", gateway.key),
            "image": ImageRef("test", python=sys.executable),
            "resources": Resources(),
            "walltime": timedelta(minutes=10),
            "queue_budget": timedelta(minutes=10),
            "asked": datetime.now(UTC),
            "environment": {
                "JUPYTERHUB_API_URL": hub.url,
                "JUPYTERHUB_API_TOKEN": HUB_TOKEN,
                "JUPYTERHUB_DEFAULT_URL": "/lab",
                **(environment or {}),
            },
            "command": (str(script),),
        }
        request = SessionRequest(**{**fields, **changes})
        spec, secrets = session_job(request, write_agent(tmp_path))
        for name, content in secrets.items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_bytes(content)
        for name, path in spec.inputs.items():
            (folder / name).write_bytes(path.read_bytes())
        job = AgentProcess(folder)
        with (folder / "log").open("wb") as log:
            job.process = await asyncio.create_subprocess_exec(
                *spec.command, cwd=folder, stdout=log, stderr=log
            )
        gateway.agents.append(job)
        return job

    return start


async def asked(gateway, job):
    """Return what the server says of itself, once the gateway leads to it."""
    client = await gateway.raw()

    async def answer():
        assert job.process.returncode is None, job.log()
        status, body = await client.ask(ROUTE + "x")
        return body if status == 200 else None

    return await eventually(answer, within_s=30)


async def last_words(gateway):
    """Return the agent's last words, as the hub hears them."""
    token = gateway.token(domain="s1.u-alice-fpmansl7")
    async with Owner(gateway.url, lambda: token) as owner:
        return await eventually(
            lambda: (owner.agents.get("s1-1") or {}).get("reason") and dict(owner.agents["s1-1"])
        )


async def test_the_server_gets_what_the_hub_gives_and_folders_of_its_own(begin, gateway):
    job = await begin(arguments=("--debug",), environment={"MINE": "1"})
    said = await asked(gateway, job)
    environ = said["environ"]
    own = str(job.folder / "offload")
    assert environ["JUPYTERHUB_API_TOKEN"] == HUB_TOKEN
    assert environ["MINE"] == "1"
    assert environ["HOME"] == environ["JUPYTERHUB_ROOT_DIR"] == said["cwd"] == own + "/home"
    assert environ["JUPYTER_RUNTIME_DIR"] == own + "/runtime"
    assert environ["JUPYTER_PATH"].split(":")[0] == own
    assert environ["JUPYTERHUB_SERVICE_URL"].startswith("http://127.0.0.1:")
    assert environ["JUPYTERHUB_SERVICE_URL"].endswith(ROUTE)
    assert stat.S_IMODE((job.folder / "offload").stat().st_mode) == 0o700
    assert said["argv"][1] == "--debug"
    assert ("--allow-root" in said["argv"]) == (os.geteuid() == 0)


async def test_secrets_are_in_one_file_and_one_environment_only(begin, gateway):
    job = await begin()
    await asked(gateway, job)
    arguments = " ".join(processes_below(job.folder).values())
    assert "offload-agent.pyz" in arguments
    assert HUB_TOKEN not in arguments
    agent = (job.folder / "agent.json").read_text()
    assert json.loads(agent)["lease"] not in arguments
    assert HUB_TOKEN not in agent + job.log()
    assert stat.S_IMODE((job.folder / SESSION_CONFIG).stat().st_mode) == 0o600


async def test_a_home_of_the_site_is_used_where_it_is_asked_for(begin, gateway, tmp_path):
    place = tmp_path / "notebooks"
    place.mkdir()
    said = await asked(gateway, await begin(home="site", notebook_dir=str(place)))
    assert said["environ"]["HOME"] == os.environ["HOME"]
    assert said["cwd"] == said["environ"]["JUPYTERHUB_ROOT_DIR"] == str(place)
    assert "JUPYTER_CONFIG_PATH" not in said["environ"]


async def test_jupyterlab_finds_the_extension_and_what_it_shows(begin, gateway):
    job = await begin(walltime=timedelta(hours=3))
    said = await asked(gateway, job)
    place = job.folder / "offload" / "labextensions" / "offload-walltime"
    package = json.loads((place / "package.json").read_text())
    assert (place / package["jupyterlab"]["_build"]["load"]).is_file()
    shown = json.loads((place / "static" / "session.json").read_text())
    assert (shown["site"], shown["home"]) == ("Here", "job")
    assert shown["ends_at"] == int(said["environ"]["OFFLOAD_ENDS_AT"])
    assert abs(shown["ends_at"] - shown["started_at"] - 3 * 3600) <= scaled(5)


async def test_the_hub_hears_when_the_server_listens_and_what_the_image_has(begin, gateway):
    token = gateway.token(domain="s1.u-alice-fpmansl7", route=ROUTE)
    async with Owner(gateway.url, lambda: token) as owner:
        job = await begin()
        entry = await eventually(
            lambda: (owner.agents.get("s1-1") or {}).get("serves") and owner.agents["s1-1"],
            within_s=30,
            saying=job.log,
        )
        assert set(entry["info"]["has"]) >= {"jupyterhub", "jupyterlab"}
        assert entry["info"]["versions"]["jupyterlab"].startswith("4.")
        assert entry["info"]["python"] == ".".join(map(str, sys.version_info[:3]))
        assert entry["info"]["ends_at"] > datetime.now(UTC).timestamp()
        await owner.gone([], "its server was stopped")
        assert await job.wait() == 0
        assert (job.folder.parent / "terminated").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"command": ("no-such-server",)}, "this image has no no-such-server"),
        ({"notebook_dir": "/no/such/folder"}, "there is no folder '/no/such/folder' at this site"),
        (
            {"server": f"#!{sys.executable}\nraise SystemExit(3)\n"},
            "the JupyterLab server ended before it was ready, with exit code 3",
        ),
    ],
)
async def test_a_session_that_cannot_start_says_why(begin, gateway, changes, reason):
    job = await begin(**changes)
    assert await job.wait() == 78
    words = await last_words(gateway)
    assert words["reason"] == reason
    assert words["hint"]


async def test_a_server_that_ends_by_itself_says_so(begin, gateway):
    job = await begin(environment={"CODE": "4"})
    await asked(gateway, job)
    client = await gateway.raw()
    assert (await client.ask(ROUTE + "end"))[0] == 503
    assert await job.wait() == 4
    words = await last_words(gateway)
    assert words["reason"] == "the JupyterLab server ended by itself with exit code 4"


async def test_a_session_whose_walltime_is_over_ends_in_good_order(begin, gateway):
    job = await begin(walltime=timedelta(seconds=scaled(12)))
    await asked(gateway, job)
    assert await job.wait() == EXIT_WALLTIME
    assert (job.folder.parent / "terminated").exists()
    assert (await last_words(gateway))["reason"] == "its walltime was used up"


async def test_a_server_does_not_outlive_its_agent(begin, gateway):
    job = await begin()
    await asked(gateway, job)
    assert processes_below(job.folder)
    job.process.kill()
    await eventually(lambda: processes_below(job.folder) == {})
    assert (job.folder.parent / "terminated").exists()


async def test_a_session_that_is_stopped_while_it_starts_starts_no_server(begin, gateway):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # A hub that accepts and never answers.
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/hub/api"
        job = await begin(environment={"JUPYTERHUB_API_URL": url})
        await eventually((job.folder / "offload").exists, within_s=20)
        job.process.terminate()
        assert await job.wait() == 128 + 15
    assert processes_below(job.folder) == {}


# --- the hub -----------------------------------------------------------------------------------------


def test_a_hub_that_is_being_started_is_waited_for():
    with Hub(503, 502) as hub:
        wait_for_hub(hub.url, "", within_s=scaled(30))
        assert hub.left == []


def test_a_hub_that_wants_to_know_who_asks_is_there():
    with Hub(403) as hub:
        wait_for_hub(hub.url, "", within_s=0)


def test_a_hub_that_stays_away_is_named_with_what_happened():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(UnfitError) as unfit:
        wait_for_hub(f"http://127.0.0.1:{port}/hub/api?token=x", "", within_s=0)
    assert unfit.value.reason == (
        f"this node cannot reach the hub at 127.0.0.1:{port}: Connection refused"
    )
    with Hub(503) as hub, pytest.raises(UnfitError, match="it answers 503"):
        wait_for_hub(hub.url, "", within_s=0)


def test_a_hub_is_trusted_by_its_certificate_and_by_nothing_else(tmp_path):
    pytest.importorskip("cryptography")
    from dask_offload.tls import ClusterAuthority

    credential = ClusterAuthority("hub").issue("scheduler", timedelta(hours=1))
    (tmp_path / "cert.pem").write_text(credential.cert + credential.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem")
    with Hub(tls=context) as hub, pytest.raises(UnfitError, match="is not trusted here"):
        wait_for_hub(hub.url, "", within_s=scaled(60))
