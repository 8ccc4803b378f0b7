"""`python offload-agent.pyz CONFIG` runs one job; `… --payload MODULE ARGS` is its payload."""

from __future__ import annotations

import argparse
import asyncio
import logging
import runpy
import sys
from pathlib import Path

from offload_relay.errors import RelayError

#: Folder in the archive with what payloads import; the agent's own folder is hidden from them.
PAYLOAD_FOLDER = "payload"


def main(argv: list[str] | None = None) -> int:
    """Run the agent, or the payload that travels with it; return the exit code."""
    parser = argparse.ArgumentParser(prog="offload-agent")
    parser.add_argument("config", nargs="?", type=Path, help="JSON file of the job")
    parser.add_argument(
        "--payload", metavar="MODULE", help="run this module of the archive instead"
    )
    options, rest = parser.parse_known_args(argv)
    if options.payload:
        return _payload(options.payload, ([str(options.config)] if options.config else []) + rest)
    if options.config is None or rest:
        parser.error("exactly one CONFIG is needed")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("websockets").setLevel(logging.WARNING)
    return _agent(options.config)


def _agent(path: Path) -> int:
    from offload_relay.agent.config import load_config
    from offload_relay.agent.main import run
    from offload_relay.agent.masks import mask_with_zeros

    mask_with_zeros()
    try:
        return asyncio.run(run(load_config(path)))
    except RelayError as error:
        print(f"offload-agent: {error}", file=sys.stderr)
        return 2


def _payload(module: str, argv: list[str]) -> int:
    # Tasks of users run in this process: they must see their image's packages, not the agent's.
    archive = sys.path[0]
    sys.path[0] = f"{archive}/{PAYLOAD_FOLDER}"
    for name in [name for name in sys.modules if name.split(".")[0] == "offload_relay"]:
        del sys.modules[name]
    sys.argv = [module, *argv]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
