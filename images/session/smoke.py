"""Smoke test of the session image: run it with the image's Python. Exit status 0 if sessions work.

It starts JupyterLab on a free port of the loopback address, and in a kernel of it an OffloadCluster
with one worker, as the first cell of a user would.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

CELL = """
import hist, matplotlib, numpy, uproot
from dask_offload import OffloadCluster

cluster = OffloadCluster(n_workers=1)
client = cluster.get_client()
assert client.submit(lambda x: x + 1, 41).result(timeout=120) == 42
cluster.close()
print("the kernel has had its worker")
"""
HUB_SCRIPTS = ("jupyterhub-singleuser", "jupyter-lab")


def main():
    beside = Path(sys.executable).parent
    for script in HUB_SCRIPTS:
        assert shutil.which(script, path=f"{beside}:{os.environ['PATH']}"), f"no {script}"
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HOME": home, "PATH": f"{beside}:{os.environ['PATH']}"}
        environment |= {"JUPYTER_RUNTIME_DIR": f"{home}/runtime", "JUPYTER_CONFIG_DIR": f"{home}/c"}
        with jupyter_lab(home, environment) as url:
            assert b"jupyter-config-data" in ask(f"{url}/lab"), (
                "the page of JupyterLab is not there"
            )
            extensions = json.loads(ask(f"{url}/lab/api/extensions?refresh_cache=1"))
            names = {one["name"] for one in extensions}
            assert "dask-labextension" in names, names
        run_cell(home, environment)
    versions = {name: importlib.metadata.version(name) for name in ("jupyterhub", "jupyterlab")}
    print(f"session: Python {sys.version.split()[0]}, {versions}: good")


@contextlib.contextmanager
def jupyter_lab(home, environment):
    """Run JupyterLab on a free port until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token="]
    command += [f"--ServerApp.root_dir={home}"]
    with Path(home, "lab.log").open("wb") as log:
        lab = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert lab.poll() is None, Path(home, "lab.log").read_text()
            with contextlib.suppress(OSError):
                ask(f"{url}/api")
                break
            assert time.monotonic() < deadline, Path(home, "lab.log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        lab.terminate()
        lab.wait(30)


def ask(url):
    """Return what a page of this machine says."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return answer.read()


def run_cell(home, environment):
    """Run `CELL` in a kernel of its own."""
    from jupyter_client.manager import start_new_kernel

    os.environ.update(environment)
    manager, client = start_new_kernel(kernel_name="python3", cwd=home)
    try:
        said = []
        reply = client.execute_interactive(
            CELL, timeout=300, output_hook=lambda message: said.append(message["content"])
        )
        assert reply["content"]["status"] == "ok", said
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)


if __name__ == "__main__":
    main()
