"""The relay protocol without I/O: names, messages, close codes and limits.

The agent carries this file into any image: standard library only, Python 3.9.

Theory of operation
-------------------
An agent dials out and keeps one *control* connection (`…/agent`): it says hello, registers the
endpoints of its payload, and learns that it is *gone*. Each byte stream is a WebSocket of its own:

* towards the site: the agent keeps a few connections *parked* (`…/park`); the relay takes one,
  sends `Open` on it, and bytes follow at once;
* from the site: the agent opens `…/dial/<endpoint>`, and bytes follow at once.

On both sides programs speak plain TCP to a *dial port* with HTTP `CONNECT <endpoint>`. Whoever
starts jobs watches their agents on `…/watch`. Text messages are JSON objects with a `type`; binary
messages are the bytes of a stream. Unknown types and unknown fields are ignored, since an agent may
be older or newer than its relay: jobs run for days.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from offload_relay.errors import RemoteProtocolError

__all__ = [
    "EXIT_WALLTIME",
    "HUB_NET",
    "INSTANCE_HEADER",
    "LIMITS",
    "PATH_AGENT",
    "PATH_DIAL",
    "PATH_PARK",
    "PATH_WATCH",
    "SERVES_HEADER",
    "SILENT_BEATS",
    "VERSION",
    "Agents",
    "CloseCode",
    "Control",
    "Ended",
    "Endpoint",
    "Gone",
    "Hello",
    "Limits",
    "Open",
    "Ping",
    "Refused",
    "Register",
    "Registered",
    "Unknown",
    "Unregister",
    "Want",
    "Welcome",
    "check_net",
    "encode",
    "in_scope",
    "nested_within",
    "parse_message",
    "short",
]

VERSION = 1

PATH_AGENT = "/agent"
PATH_PARK = "/park"
PATH_DIAL = "/dial/"
PATH_WATCH = "/watch"

#: Header of all of an agent's requests: random, chosen anew by each agent process. It proves on a
#: reconnect that this is the same one, and ties parked connections to their control connection.
INSTANCE_HEADER = "Offload-Instance"

#: Header of a REGISTER on an agent's dial port: with any value, this is the server of a session.
SERVES_HEADER = "Offload-Serves"

#: Exit code of a job whose walltime was used up (EX_TEMPFAIL of sysexits.h).
EXIT_WALLTIME = 75

#: Net of the programs that the relay reaches by plain TCP.
HUB_NET = "hub"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one peer may cost the other. Sizes in bytes, times in seconds.

    Parameters
    ----------
    message_bytes : int
        Largest binary message; larger reads are cut into several.
    control_bytes : int
        Largest text message.
    head_bytes : int
        Largest HTTP head on a dial port.
    endpoints : int
        Endpoints that one agent may register: a 256-core node with a worker and a nanny each.
    parked : int
        Connections that one agent may keep parked.
    streams : int
        Connections that one lease may have at once, of all sorts together.
    waiting_dials : int
        Dials that may wait for one lease's agents at once.
    first_message_s : float
        Time from accepting a connection to its first complete message or head.
    dial_wait_s : float
        How long a dial waits for an agent that is not there (it may be reconnecting).
    heartbeat_s : float
        Interval of `Ping`; a peer that is silent for 2.5 of them is lost.
    lost_grace_s : float
        How long the endpoints of a lost agent are kept for the same agent.
    owner_grace_s : float
        How long agents go on while nobody watches their domain: their owner may be restarting.
        A lease may say otherwise.
    ended_keep_s : float
        How long the last words of an ended agent are kept for its owner.
    gone_grace_s : float
        How long an agent that was told *gone* may take to end; then its connections are cut.
    info_bytes : int
        Largest `Hello.info`, as JSON: owners are told it for many agents at once.
    info_depth : int
        How deep its lists and mappings may be nested.
    gone_keep_s : float
        How long it is remembered that a domain has ended: its jobs may still be in a queue.
    """

    message_bytes: int = 256 * 1024
    control_bytes: int = 64 * 1024
    head_bytes: int = 8 * 1024
    endpoints: int = 600
    parked: int = 64
    streams: int = 10_000
    waiting_dials: int = 2_000
    first_message_s: float = 10.0
    dial_wait_s: float = 10.0
    heartbeat_s: float = 20.0
    lost_grace_s: float = 90.0
    owner_grace_s: float = 600.0
    ended_keep_s: float = 600.0
    gone_grace_s: float = 120.0
    info_bytes: int = 4096
    info_depth: int = 4
    gone_keep_s: float = 8 * 86400.0


LIMITS = Limits()

#: A peer that is silent for this many heartbeats is lost.
SILENT_BEATS = 2.5


# --- names -------------------------------------------------------------------------------------

_NET = re.compile(r"(?=.{1,190}\Z)[a-z][a-z0-9-]{0,62}(\.[a-z][a-z0-9-]{0,62}){0,4}")
_ENDPOINT = re.compile(
    r"(?P<ip>[0-9]{1,3}(?:[.][0-9]{1,3}){3})\.(?P<net>[a-z][a-z0-9.-]*):(?P<port>[0-9]{1,5})"
)


def check_net(net: str) -> str:
    """Return `net` if it is 1 to 5 labels of lower-case letters, digits, hyphens.

    Each label starts with a letter, so that the end of the IP address before it is plain.

    Raises
    ------
    RemoteProtocolError
        It is anything else.
    """
    if not _NET.fullmatch(net):
        raise RemoteProtocolError(f"{short(net)} is not the name of a net (such as 'j1.naples.c7')")
    return net


def in_scope(net: str, scope: str) -> bool:
    """Tell whether `net` lies within `scope`: it is the same, or a part of it."""
    return net == scope or net.endswith("." + scope)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """The relay's name for one port of one payload: `<ip>.<net>:<port>`.

    `net` is `<job>.<site>.<domain>` for a payload in a job, `hub` for a program that the relay
    reaches by plain TCP. A domain belongs to one Dask cluster or session.
    """

    ip: str
    net: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip}.{self.net}:{self.port}"

    @property
    def host(self) -> str:
        """`<ip>.<net>`: equal for all endpoints of a job, which is how Dask finds neighbours."""
        return f"{self.ip}.{self.net}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Return the endpoint that `str()` wrote.

        Raises
        ------
        RemoteProtocolError
            `text` is not `<IPv4 address>.<net>:<port>` with a port from 0 to 65535.
        """
        match = _ENDPOINT.fullmatch(text) if len(text) <= 256 else None
        if match is None:
            raise RemoteProtocolError(
                f"{short(text)} is not an endpoint (such as '10.0.0.7.j1.naples.c7:40001')"
            )
        try:
            ip = str(ipaddress.IPv4Address(match["ip"]))
        except ValueError as error:
            raise RemoteProtocolError(f"{short(match['ip'])} is not an IPv4 address") from error
        port = int(match["port"])
        if port > 65535:
            raise RemoteProtocolError(f"port {port} is above 65535")
        return cls(ip, check_net(match["net"]), port)


def short(value: object) -> str:
    """Return `value` as it may be quoted in a message: in at most 80 characters."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} that is nested too deep"
    return text if len(text) <= 80 else text[:77] + "..."


def nested_within(value: object, levels: int) -> bool:
    """Tell whether lists and mappings in `value`, it included, are at most `levels` deep."""
    if isinstance(value, (dict, list)):
        inner = value.values() if isinstance(value, dict) else value
        return levels > 0 and all(nested_within(item, levels - 1) for item in inner)
    return True


# --- close codes -------------------------------------------------------------------------------


class CloseCode(enum.IntEnum):
    """Why the relay closed a WebSocket. `final`: the same request will be refused again."""

    BAD_MESSAGE = 4400
    LEASE_REFUSED = 4401
    NOT_ALLOWED = 4403
    NO_ENDPOINT = 4404
    TOO_SLOW = 4408
    HELD_BY_ANOTHER = 4409
    GONE = 4410
    TOO_MANY = 4429
    TARGET_REFUSED = 4502
    TRY_AGAIN = 4503

    @property
    def final(self) -> bool:
        """True if connecting again with the same lease cannot help."""
        return self in (
            CloseCode.BAD_MESSAGE,
            CloseCode.LEASE_REFUSED,
            CloseCode.NOT_ALLOWED,
            CloseCode.GONE,
        )


# --- messages ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Hello:
    """Agent → relay, first on the control connection.

    `info` (host, Python, versions, what the image has) is shown to the owner as it is.
    """

    type: ClassVar[str] = "hello"
    version: int
    info: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Welcome:
    """Relay → agent, the answer to `Hello`, and relay → owner, first of all.

    Says how many connections to keep parked, and how often (in seconds) to send `Ping`.
    """

    type: ClassVar[str] = "welcome"
    version: int
    parked: int
    heartbeat_s: float = 20.0


@dataclasses.dataclass(frozen=True)
class Register:
    """Agent → relay: its payload listens at `endpoint`.

    With `serves` it is the server that answers for the route of the agent's lease.
    """

    type: ClassVar[str] = "register"
    endpoint: str
    serves: bool = False


@dataclasses.dataclass(frozen=True)
class Registered:
    """Relay → agent: `endpoint` can be dialled now."""

    type: ClassVar[str] = "registered"
    endpoint: str


@dataclasses.dataclass(frozen=True)
class Refused:
    """Relay → agent: `endpoint` is not registered, and why."""

    type: ClassVar[str] = "refused"
    endpoint: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Unregister:
    """Agent → relay: nobody listens at `endpoint` any more."""

    type: ClassVar[str] = "unregister"
    endpoint: str


@dataclasses.dataclass(frozen=True)
class Want:
    """Relay → agent: `count` more streams are waiting than connections are parked."""

    type: ClassVar[str] = "want"
    count: int


@dataclasses.dataclass(frozen=True)
class Ping:
    """Both ways on control and watch connections: each side hears one every `heartbeat_s`.

    Only these connections are watched. When one is lost, both sides drop all streams of that agent:
    a timer per stream would cost more CPU than the bytes of an idle worker.
    """

    type: ClassVar[str] = "ping"


@dataclasses.dataclass(frozen=True)
class Ended:
    """Agent → relay, its last words: the payload's exit code, and why it ended."""

    type: ClassVar[str] = "ended"
    exit_code: int
    reason: str = ""
    hint: str = ""


@dataclasses.dataclass(frozen=True)
class Gone:
    """Relay → agent: nobody needs this job any more; or, to the owner of a domain, jobs to end.

    An owner sends it with `jobs` (keys; empty for all of its domain) on its watch connection.
    """

    type: ClassVar[str] = "gone"
    reason: str = ""
    jobs: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Open:
    """Relay → agent on a parked connection: splice it to the payload's `endpoint`."""

    type: ClassVar[str] = "open"
    endpoint: str


@dataclasses.dataclass(frozen=True)
class Agents:
    """Relay → owner on a watch connection: agents of its domain that are new or have changed.

    Each entry holds `job`, `state` (`connected`, `lost`, `ended`), `since_s` (Unix time),
    `endpoints` (count), `serves` (the server of a session listens), `bytes_in`/`bytes_out` (carried
    so far), `info` (the agent's hello), and for an ended one `exit_code`, `reason`, `hint`. The
    first message after connecting is complete.
    """

    type: ClassVar[str] = "agents"
    agents: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Unknown:
    """A message of a type that this side does not know yet; to be ignored."""

    type: ClassVar[str] = ""
    name: str


#: Everything that travels as text.
Control = Any

_MESSAGES: dict[str, type[Any]] = {
    kind.type: kind
    for kind in (
        Hello,
        Welcome,
        Register,
        Registered,
        Refused,
        Unregister,
        Want,
        Ping,
        Ended,
        Gone,
        Open,
        Agents,
    )
}
_KINDS: Mapping[str, Any] = {
    "bool": bool,
    "int": int,
    "float": (int, float),
    "str": str,
    "dict[str, Any]": dict,
    "list[str]": list,
    "list[dict[str, Any]]": list,
}


def encode(message: Control) -> str:
    """Return `message` as the text of one WebSocket message."""
    # Not dataclasses.asdict, which calls itself for each level of what others have said.
    return json.dumps({"type": message.type, **vars(message)}, separators=(",", ":"))


def parse_message(text: str, *, limit: int = LIMITS.control_bytes) -> Control:
    """Return the message in `text`; `Unknown` if its type is not one of ours.

    Raises
    ------
    RemoteProtocolError
        Longer than `limit`, no JSON object with a `type`, or a field missing or of a wrong type.
    """
    if len(text) > limit:
        raise RemoteProtocolError(f"a message of {len(text)} characters; at most {limit} allowed")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"a message that is no JSON: {short(text)}") from error
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str):
        raise RemoteProtocolError(f"a message without a type: {short(text)}")
    kind = _MESSAGES.get(name)
    if kind is None:
        return Unknown(name[:40])
    return kind(
        **{f.name: _field(name, f, value) for f in dataclasses.fields(kind) if _has(f, value)}
    )


def _has(field: dataclasses.Field[Any], value: Mapping[str, object]) -> bool:
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return required or field.name in value


def _field(name: str, field: dataclasses.Field[Any], value: Mapping[str, object]) -> object:
    found = value.get(field.name)
    kind = _KINDS[str(field.type)]
    # bool is an int to Python; it is not one to us.
    good = isinstance(found, kind) and (kind is bool or not isinstance(found, bool))
    if good and isinstance(found, list):
        inner = str if field.type == "list[str]" else dict
        good = all(isinstance(item, inner) for item in found)
    if not good:
        raise RemoteProtocolError(f"message {name!r}: {field.name} is {short(found)}")
    return found
