"""The containers of our chart as processes of this machine, with its addresses and folders in place."""

import contextlib
import os
import subprocess
import sys
import urllib.request

from offload_cli.demo.programs import free_ports
from offload_relay.lease import new_key
from tests.helm.conftest import NAMESPACE
from tests.support.waiting import eventually_sync, scaled


class Pods:
    """Relay and service of a rendered chart.

    Parameters
    ----------
    chart : Rendered
        Our chart, with a proxy network on loopback.
    place : Path
        Where their folders are made.
    hub_api : str
        In place of the hub's API.
    secret : callable
        Gives the value of a `secretKeyRef`.
    """

    def __init__(self, chart, place, *, hub_api, secret=lambda ref: "from-a-secret"):
        self.chart, self.place, self.hub_api, self.secret = chart, place, hub_api, secret
        self.processes = {}
        names = ("public", "dial", "gateway", "http")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        for folder in ("keys", "catalog", "state"):
            (place / folder).mkdir()
        self.key = place / "keys" / "lease.key"
        self.key.write_bytes(new_key())
        self.key.chmod(0o440 if os.getuid() == 0 else 0o400)
        self.catalog = place / "catalog" / "catalog.yaml"

    def here(self, text):
        """Return a text of the chart with what it names in the cluster on this machine."""
        public, dial = self.ports["public"], self.ports["dial"]
        for there, instead in {
            "/etc/offload/keys": f"{self.place}/keys",
            "/etc/offload/catalog": f"{self.place}/catalog",
            "/var/lib/offload": f"{self.place}/state",
            "wss://hub.example.org/offload-relay": f"ws://127.0.0.1:{public}",
            f"offload-relay.{NAMESPACE}.svc:8301": f"127.0.0.1:{dial}",
            "http://hub:8081/hub/api": self.hub_api,
            "0.0.0.0:8300": f"127.0.0.1:{public}",
            "0.0.0.0:8301": f"127.0.0.1:{dial}",
            "0.0.0.0:8302": f"127.0.0.1:{self.ports['gateway']}",
            "0.0.0.0:8400": f"127.0.0.1:{self.ports['http']}",
        }.items():
            text = text.replace(there, instead)
        return text

    def container(self, name):
        [one] = self.chart["Deployment", name]["spec"]["template"]["spec"]["containers"]
        return one

    def start(self, name):
        container = self.container(name)
        given = {one["name"]: self._value(one) for one in container.get("env", [])}
        variables = {"PATH": os.environ["PATH"], "TMPDIR": str(self.place), **given}
        with (self.place / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "offload_cli", *map(self.here, container["args"])],
                cwd=self.place,
                env=variables,
                stdout=log,
                stderr=log,
            )
        eventually_sync(lambda: self.probe(name, "startupProbe"), within_s=40, saying=name)

    def _value(self, variable):
        if "value" in variable:
            return self.here(variable["value"])
        return self.secret(variable["valueFrom"]["secretKeyRef"])

    def probe(self, name, which):
        """Ask what the kubelet would ask; tell whether it would be content."""
        assert self.processes[name].poll() is None, self.log(name)
        asked = self.container(name)[which]["httpGet"]
        url = f"http://127.0.0.1:{self.ports[asked['port']]}{asked['path']}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return 200 <= answer.status < 400
        return False

    def log(self, name):
        return (self.place / f"{name}.log").read_text(errors="replace")

    def close(self):
        for process in self.processes.values():
            process.terminate()
            assert process.wait(scaled(30)) == 0
