"""Logs that are longer than whoever reads them has memory."""

import tracemalloc

import pytest
import yaml
from aiohttp import web

from offload_sites import kubernetes
from offload_sites.jobs import JobHandle
from offload_sites.site_models import KubernetesSite
from offload_sites.units import parse_duration

MIB = 1024**2
# A bar of progress renews itself in one line without end.
WRITTEN = b"99 % of it is done\r"


@pytest.fixture
async def api(tmp_path, monkeypatch):
    """An API server with one pod, whose log is one line of 64 MiB."""

    async def log(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        piece = WRITTEN * 4096
        for _ in range(64 * MIB // len(piece)):
            await answer.write(piece)
        await answer.write(b"the end")
        return answer

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/here/pods/{name}/log", log)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    config = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "here"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield
    await runner.cleanup()


async def test_of_a_long_log_no_more_is_held_than_is_asked_for(api):
    site = KubernetesSite(kind="kubernetes", title="t", max_walltime=parse_duration("1h"))
    async with kubernetes.create("cluster", site) as backend:
        tracemalloc.start()
        try:
            logs = await backend.logs(JobHandle("cluster", "job-1"), tail_bytes=1000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert logs.stdout.endswith(f"{WRITTEN.decode()}the end")
    assert len(logs.stdout) == 1000
    assert peak < 16 * MIB
