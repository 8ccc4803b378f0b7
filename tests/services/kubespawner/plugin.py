"""A plugin for KubeSpawner's own tests: has them use `InterLinkSpawner`, on a fake cluster.

With `SPAWNER=KubeSpawner` in the environment they use their own. No pod of the fake cluster can be
entered: what the tests would run in one, requests and prints, runs here. Its pods share the network
of this machine.
"""

import asyncio
import inspect
import os
import subprocess
import sys

import kubespawner
from traitlets import default

from interlink_spawner.spawner import InterLinkSpawner

# They begin to ask for a server when its container has started.
_TRIES = 60


class Spawner(InterLinkSpawner):
    """With the defaults for volumes that the tests know, in place of one volume for each user."""

    @default("pvc_name_template")
    def _name_of_volume(self):
        return type(self).pvc_name_template.default_value

    @default("delete_pvc")
    def _whether_it_is_deleted(self):
        return type(self).delete_pvc.default_value


if os.environ.get("SPAWNER") != "KubeSpawner":
    kubespawner.KubeSpawner = Spawner


def pytest_collection_finish(session):
    for plugin in session.config.pluginmanager.get_plugins():
        if inspect.ismodule(plugin) and "_exec_python_in_pod" in vars(plugin):
            plugin._exec_python_in_pod = _on_this_machine(plugin)


def _on_this_machine(conftest):
    async def run(client, namespace, pod, code, kwargs=None, _retries=0):
        await conftest.wait_for_pod(client, namespace, pod)
        if not isinstance(code, str):
            code = f"{inspect.getsource(code)}\n{code.__name__}(**{kwargs or {}!r})\n"
        command = [sys.executable, "-c", code]
        for left in range(_TRIES if _retries else 0, -1, -1):
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                return done.stdout.rstrip()
            print(done.stderr, file=sys.stderr)
            if left:
                await asyncio.sleep(0.5)
        raise conftest.ExecError(done.returncode, done.stderr, code)

    return run
