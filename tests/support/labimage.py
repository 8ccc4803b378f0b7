"""Images of the testbeds with Dask, or with a whole session, in the releases of this environment."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

from tests.support.testbedkit import Testbed

ROOT = Path(__file__).parents[2]
PACKAGES = ("offload_sites", "offload_relay", "dask_offload")


def make_dask_image(testbed: Testbed) -> str:
    """Make the image with this environment's Dask, and return its path."""
    version = importlib.metadata.version
    packages = [f"{name}=={version(name)}" for name in ("dask", "distributed", "numpy")]
    return testbed.make_image(f"testbed/dask:{version('distributed')}", *packages)


def make_lab_image(testbed: Testbed) -> str:
    """Make an image with a Jupyter server, Dask and this project, and return its path."""
    pinned = [
        f"{name}=={importlib.metadata.version(name)}"
        for name in (
            *("jupyterhub", "jupyterlab", "ipykernel", "dask", "distributed", "click"),
            *("pydantic", "pyyaml", "websockets", "PyJWT", "cryptography", "prometheus-client"),
        )
    ]
    image = testbed.make_image("testbed/lab:2", *pinned)
    packages = Path(
        testbed.env["CVMFS_DIR"],
        "unpacked.infn.it/testbed/lab:2/usr/local/lib/python3.11/dist-packages",
    )
    for name in PACKAGES:
        shutil.rmtree(packages / name, ignore_errors=True)
        shutil.copytree(ROOT / name, packages / name)
    # Dask finds the scheme relay:// by an entry point.
    info = packages / "interlink_offload-0.1.0.dist-info"
    info.mkdir(exist_ok=True)
    installed = importlib.metadata.distribution("interlink-offload")
    for file in ("METADATA", "entry_points.txt"):
        (info / file).write_text(installed.read_text(file))
    return image
