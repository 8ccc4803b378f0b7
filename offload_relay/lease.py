"""Leases: the signed right to hold endpoints at the relay and to dial others. Pure.

A lease is a JWT signed with HS256 by whoever starts jobs (the offload service, or the supervisor of
one Dask cluster) and checked by the relay, which knows the same key. Two roles:

* `agent`: one job. May register endpoints in its own net, and dial what `dial` lists.
* `owner`: one domain. May watch and end the domain's agents, and dial what `dial` lists.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

import jwt

from offload_relay.errors import LeaseError, RemoteProtocolError
from offload_relay.protocol import Endpoint, check_net, in_scope

__all__ = [
    "KEY_BYTES",
    "Lease",
    "has_expired",
    "may_dial",
    "may_register",
    "new_key",
    "sign",
    "verify",
]

#: Fewest bytes of a key that leases are signed with (RFC 7518, 3.2: as long as the hash).
KEY_BYTES = 32

_ALGORITHM = "HS256"
_AUDIENCE = "interlink-offload-relay"
# Clocks of a hub's pods differ by less; a lease is good for hours.
_LEEWAY = timedelta(seconds=30)


@dataclass(frozen=True)
class Lease:
    """The signed right of one job, or of the owner of a domain.

    Parameters
    ----------
    role : {"agent", "owner"}
        What it is for.
    user : str
        Whose it is; for logs and metrics.
    domain : str
        The Dask cluster or session that it belongs to: the last labels of all its nets.
    expires : datetime
        Aware UTC; for a job, the end of its queue budget plus its walltime.
    job : str
        Key of the job; empty for an owner.
    net : str
        Net in which endpoints may be registered, `<job>.<site>.<domain>`; empty for an owner.
    dial : tuple of str
        What it may dial: endpoints as they are, or `*.<net>` for every endpoint in a net.
    route : str
        For a session: the path of the hub's proxy that its one endpoint answers for, such as
        `/user/alice/` (with both slashes). The relay's gateway routes by it, and keeps it for the
        session while an owner with it watches. Empty for workers.
    unwatched_s : float or None
        For how long an agent goes on while nobody watches its domain, in seconds; None for the
        relay's own limit (`Limits.owner_grace_s`), which suits workers. A session outlives its hub.
    id : str
        Unique; appears in logs in place of the token.
    """

    role: Literal["agent", "owner"]
    user: str
    domain: str
    expires: datetime
    job: str = ""
    net: str = ""
    dial: tuple[str, ...] = ()
    route: str = ""
    unwatched_s: float | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        if self.role not in ("agent", "owner"):
            raise LeaseError(f"a lease for the role {self.role!r}: only agent and owner exist")
        try:
            check_net(self.domain)
            if self.role == "agent" and not (
                self.job and in_scope(check_net(self.net), self.domain)
            ):
                raise LeaseError(f"an agent's lease with net {self.net!r} outside {self.domain!r}")
            if self.route and not (self.route[0] == self.route[-1] == "/"):
                raise LeaseError(f"a lease with the route {self.route!r}, which is not '/…/'")
        except RemoteProtocolError as error:
            raise LeaseError(f"a lease with a bad name: {error.message}") from error


def new_key() -> bytes:
    """Return `KEY_BYTES` random bytes to sign leases with."""
    return secrets.token_bytes(KEY_BYTES)


def sign(lease: Lease, key: bytes) -> str:
    """Return `lease` as a token. Whoever has the token has the right."""
    claims = {
        "aud": _AUDIENCE,
        "exp": lease.expires,
        "sub": lease.user,
        "jti": lease.id,
        "role": lease.role,
        "domain": lease.domain,
        "job": lease.job,
        "net": lease.net,
        "dial": list(lease.dial),
        "route": lease.route,
        "unwatched_s": lease.unwatched_s,
    }
    return jwt.encode(claims, key, algorithm=_ALGORITHM)


def verify(token: str, keys: Sequence[bytes], now: datetime) -> Lease:
    """Return the lease in `token`, if one of `keys` signed it and it has not expired.

    Parameters
    ----------
    token : str
        What the peer presented.
    keys : sequence of bytes
        All keys in use; more than one while a key is being replaced.
    now : datetime
        Aware UTC.

    Raises
    ------
    LeaseError
        It is not to be believed; the message never contains the token.
    """
    claims = _claims(token, keys)
    try:
        expires = datetime.fromtimestamp(int(claims["exp"]), UTC)  # type: ignore[call-overload]
        lease = Lease(
            role=claims["role"],  # type: ignore[arg-type]
            user=_text(claims["sub"]),
            domain=_text(claims["domain"]),
            expires=expires,
            job=_text(claims["job"]),
            net=_text(claims["net"]),
            dial=tuple(_text(item) for item in claims["dial"]),  # type: ignore[attr-defined]
            route=_text(claims.get("route", "")),
            unwatched_s=_seconds(claims.get("unwatched_s")),
            id=_text(claims["jti"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise LeaseError("the lease is signed but has missing or odd claims") from error
    if has_expired(lease, now.timestamp()):
        raise LeaseError(f"the lease {lease.id} expired at {expires:%Y-%m-%d %H:%M:%S} UTC")
    return lease


def has_expired(lease: Lease, now_s: float) -> bool:
    """Tell whether `lease` is over at `now_s` (Unix seconds), with some leeway for clocks."""
    return now_s > (lease.expires + _LEEWAY).timestamp()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(type(value).__name__)
    return float(value)


def _claims(token: str, keys: Iterable[bytes]) -> dict[str, object]:
    for key in keys:
        try:
            # Expiry is checked against our caller's clock, not PyJWT's.
            return jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                options={"verify_exp": False, "require": ["exp", "aud", "sub", "jti"]},
            )
        except jwt.InvalidSignatureError:
            continue
        except (jwt.PyJWTError, ValueError) as error:
            raise LeaseError("the lease is not a token of this relay") from error
    raise LeaseError(
        "the lease was not signed for this relay", "start the job again from the present hub"
    )


def may_register(lease: Lease, endpoint: Endpoint) -> bool:
    """Tell whether the holder of `lease` may hold `endpoint`."""
    return lease.role == "agent" and endpoint.net == lease.net and endpoint.port > 0


def may_dial(lease: Lease, endpoint: Endpoint) -> bool:
    """Tell whether the holder of `lease` may open a stream to `endpoint`."""
    return any(
        in_scope(endpoint.net, rule[2:]) if rule.startswith("*.") else rule == str(endpoint)
        for rule in lease.dial
    )
