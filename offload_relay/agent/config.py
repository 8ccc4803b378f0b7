"""What an agent is told: a JSON file that only its job may read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offload_relay.errors import RelayError

__all__ = ["AgentConfig", "load_config"]


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """The whole configuration of one agent.

    Parameters
    ----------
    relay : str
        Base URL of the relay, `ws://` or `wss://`.
    lease : str
        The signed lease token.
    job, net : str
        Key of the job, and the net that its endpoints are in.
    payload : list of str
        argv of the program to run; `{python}` and `{agent}` stand for the interpreter and the
        archive that the agent itself runs from.
    walltime_s : float
        How long the job may run, from the agent's start.
    drain_s : float
        How long before the end of the walltime the payload is asked to finish (SIGTERM).
    unreachable_s : float
        How long the relay may be unreachable before the job ends.
    environment : dict
        Variables that only the payload gets.
    relay_ca : str
        PEM certificates to trust for `wss://`; empty for those of the image.
    """

    relay: str
    lease: str = dataclasses.field(repr=False)
    job: str
    net: str
    payload: list[str]
    walltime_s: float
    drain_s: float = 60.0
    unreachable_s: float = 300.0
    environment: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    relay_ca: str = ""

    def render(self) -> bytes:
        """Return the file that `load_config` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode()


def load_config(path: Path) -> AgentConfig:
    """Return the configuration in the file `path`.

    Raises
    ------
    RelayError
        Not readable, not JSON, or a field is missing or unknown; never quotes the content.
    """
    try:
        value: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise RelayError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RelayError(f"{path} is not JSON") from error
    if not isinstance(value, Mapping):
        raise RelayError(f"{path} does not hold a JSON object")
    known = {field.name for field in dataclasses.fields(AgentConfig)}
    try:
        return AgentConfig(**{name: value[name] for name in value if name in known})
    except TypeError as error:
        raise RelayError(f"{path} lacks a field that this agent needs") from error
