"""Run a Kubernetes API with one node until Ctrl-C, to try things by hand.

python -m tests.services.kubernetes [--virtual] [--folder DIR]
"""

import argparse
import asyncio
import contextlib
import tempfile
from pathlib import Path

from tests.services.kubernetes.kubelet import Kubelet
from tests.services.kubernetes.virtual import VirtualKubelet
from tests.support.kubekit import KubeKit


async def serve(place, make):
    kit = KubeKit(place)
    await kit.start()
    kit.with_jobs()
    if kit.fake:
        kit.fake.open_to_all = True
    options = {"resources": {"cpu": "16", "nvidia.com/gpu": "4"}}
    await kit.kubelet(make, **options, **({} if make is VirtualKubelet else {"taints": []}))
    where = f"namespace {kit.namespace}, node {kit.node}"
    print(f"export KUBECONFIG={kit.kubeconfig}    # {where}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await kit.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--virtual", action="store_true", help="a virtual node of interLink")
    parser.add_argument("--folder", type=Path, help="where pods run; default: one that is removed")
    options = parser.parse_args()
    make = VirtualKubelet if options.virtual else Kubelet
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(folder, make))


if __name__ == "__main__":
    main()
