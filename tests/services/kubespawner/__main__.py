"""Run KubeSpawner's own tests twice, on KubeSpawner and on InterLinkSpawner, and compare.

python -m tests.services.kubespawner --python PYTHON CHECKOUT

All that passes with KubeSpawner has to pass with InterLinkSpawner. The cluster is a fake one on loopback;
hub and servers are real, and listen on the ports that the tests expect of a pod: 8081 and 8888.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from tests.support.kubekit import KubeKit

ROOT = Path(__file__).parents[3]
PORTS = (8081, 8888)
# Of the pure functions of KubeSpawner, which has no part of ours; and what copies certificates into a pod.
LEFT_OUT = (
    "--ignore=tests/test_objects.py",
    "--deselect=tests/test_spawner.py::test_spawn_internal_ssl",
)
OUTCOME = re.compile(r"^(tests/\S+(?:\[.*\])?) (PASSED|FAILED|ERROR|SKIPPED)")


async def run(checkout, python, place, spawner):
    """Return test to outcome, as pytest names both."""
    kit = KubeKit(place / spawner)
    await kit.start()
    try:
        kit.fake.open_to_all = True
        settings = place / "jupyter"
        settings.mkdir(exist_ok=True)
        # Containers of the fake cluster run as whoever runs this, which may be root.
        allowed = {"ServerApp": {"allow_root": True}}
        (settings / "jupyter_server_config.json").write_text(json.dumps(allowed))
        programs = [Path(sys.executable).parent, ROOT / "node_modules/.bin", "/usr/bin", "/bin"]
        paths = {"PATH": os.pathsep.join(map(str, programs)), "JUPYTER_CONFIG_DIR": str(settings)}
        await kit.kubelet(taints=[], environment=paths)
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", "pytest", "-p", "tests.services.kubespawner.plugin"),
            *("-v", "--color=no", "--timeout=300", "-p", "no:cacheprovider", *LEFT_OUT, "tests"),
            cwd=checkout,
            env={**os.environ, "SPAWNER": spawner, "KUBECONFIG": str(kit.kubeconfig)}
            | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        outcomes = {}
        with (place / f"{spawner}.log").open("wb") as log:
            async for line in process.stdout:
                log.write(line)
                if found := OUTCOME.match(line.decode(errors="replace")):
                    outcomes[found[1]] = found[2]
        await process.wait()
    finally:
        await kit.close()
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="with requirements/kubespawner.txt")
    parser.add_argument("checkout", type=Path, help="of KubeSpawner, the release that is installed")
    options = parser.parse_args()
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                parser.error(f"port {port} is in use: end what listens there")
    os.environ.pop("KUBECONFIG", None)
    place = Path(tempfile.mkdtemp(prefix="kubespawner-"))
    theirs, ours = (
        asyncio.run(run(options.checkout, options.python, place, spawner))
        for spawner in ("KubeSpawner", "InterLinkSpawner")
    )
    worse = [
        name for name, told in theirs.items() if told == "PASSED" and ours.get(name) != "PASSED"
    ]
    for spawner, outcomes in (("KubeSpawner", theirs), ("InterLinkSpawner", ours)):
        passed = list(outcomes.values()).count("PASSED")
        rest = [f"{name} {told}" for name, told in outcomes.items() if told != "PASSED"]
        print(f"{spawner}: {passed} passed of {len(outcomes)}", *rest, sep="\n  ")
    if worse or "PASSED" not in theirs.values():
        print(
            "With KubeSpawner alone these pass:" if worse else "No test passed.", *worse, sep="\n  "
        )
        print(f"What pytest has said is in {place}.")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
