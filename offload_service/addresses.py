"""Who a request comes from, and whether workers may dial the scheduler that it names. Pure.

Workers get a lease to dial their scheduler, and what lies behind the relay on the hub's side is
dialled by the relay: whoever could name any address there would reach any port of the hub's network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from offload_relay.access import user_label
from offload_relay.errors import RelayError
from offload_relay.protocol import HUB_NET, Endpoint, in_scope
from offload_service.errors import BadRequestError

__all__ = ["LOOPBACK", "caller_address", "check_scheduler"]

#: Proxies on the same computer, as the hub starts its own.
LOOPBACK = ("127.0.0.0/8", "::1/128")


def caller_address(peer: str, forwarded_for: str, proxies: Iterable[str]) -> str:
    """Return the address of whoever made a request.

    Parameters
    ----------
    peer : str
        Who has opened the connection.
    forwarded_for : str
        The header `X-Forwarded-For`; its last entry was added by the last proxy.
    proxies : iterable of str
        Networks of the proxies that are believed.
    """
    if forwarded_for and _within(peer, proxies):
        return _plain(forwarded_for.rpartition(",")[2].strip())
    return _plain(peer)


def check_scheduler(address: str, *, user: str, caller: str, networks: Iterable[str] = ()) -> str:
    """Return the address of a scheduler if the workers of `user` may dial it.

    Parameters
    ----------
    address : str
        `relay://<ip>.<net>:<port>`.
    user : str
        Whose cluster it is.
    caller : str
        Where the request that names it comes from.
    networks : iterable of str
        Where schedulers may listen besides.

    Raises
    ------
    BadRequestError
        It is no address, or of somebody else.
    """
    try:
        endpoint = Endpoint.parse(address.removeprefix("relay://"))
    except RelayError as error:
        raise BadRequestError(f"the scheduler's address: {error.message}") from error
    if endpoint.port == 0 or not address.startswith("relay://"):
        raise BadRequestError(f"the scheduler's address is {address!r}, expected relay://…")
    if in_scope(endpoint.net, user_label(user)):
        return address
    if endpoint.net != HUB_NET:
        raise BadRequestError(
            f"the scheduler's address {address!r} is in the net of another user or of nobody"
        )
    if endpoint.ip != caller and not _within(endpoint.ip, networks):
        raise BadRequestError(
            f"the scheduler listens on {endpoint.ip}, this request comes from {caller}",
            "the hub's administrator can allow the network of notebooks: offload service "
            "--scheduler-network, or --proxy-network if a proxy in between is not known",
        )
    return address


def _plain(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = getattr(found, "ipv4_mapped", None)
    if found == ipaddress.IPv6Address("::1"):
        return "127.0.0.1"
    return str(mapped or found)


def _within(address: str, networks: Iterable[str]) -> bool:
    try:
        found = ipaddress.ip_address(_plain(address))
    except ValueError:
        return False
    return any(found in ipaddress.ip_network(network, strict=False) for network in networks)
