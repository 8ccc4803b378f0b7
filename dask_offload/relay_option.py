"""The relay that a user names, by the argument `relay` or the settings `offload.relay`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dask_offload.runtime import absolute
from offload_relay.access import RelayAccess
from offload_relay.lease import KEY_BYTES
from offload_sites.errors import OffloadError

__all__ = ["check_relay", "relay_access"]

_NEEDED = ("url", "dial", "key_file")
_KNOWN = (*_NEEDED, "ca_file")
_HINT = "a relay is named by url, dial and key_file, and ca_file if its authority is your own"


def check_relay(given: Mapping[str, Any]) -> dict[str, str]:
    """Return `given` with absolute paths; hyphens in its keys may stand for underscores.

    Raises
    ------
    OffloadError
        Something is missing, unknown, or has another form.
    """
    if not isinstance(given, Mapping):
        raise OffloadError(f"relay is {given!r}, not a mapping", _HINT)
    relay = {str(key).replace("-", "_"): str(value) for key, value in given.items() if value}
    unknown = [key for key in relay if key not in _KNOWN]
    lacking = [key for key in _NEEDED if key not in relay]
    if unknown or lacking:
        what = f"has an unknown key {unknown[0]!r}" if unknown else f"lacks {', '.join(lacking)}"
        raise OffloadError(f"the relay {what}", _HINT)
    if not _is_url(relay["url"]):
        raise OffloadError(
            f"the URL of the relay is {relay['url']!r}",
            "it looks like wss://relay.example.org, or ws://10.1.2.3:8300",
        )
    host, _, port = relay["dial"].rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise OffloadError(
            f"the dial port of the relay is {relay['dial']!r}", "it looks like 10.1.2.3:8301"
        )
    paths = {key: str(absolute(f"the relay's {key}", relay[key])) for key in relay if "file" in key}
    return {**relay, **paths}


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False


def relay_access(relay: Mapping[str, str]) -> RelayAccess:
    """Return how to use the relay that `check_relay` has found good.

    Raises
    ------
    OffloadError
        A file cannot be read, or does not hold what it should.
    """
    try:
        key = Path(relay["key_file"]).read_bytes()
        ca = Path(relay["ca_file"]).read_text("utf-8") if "ca_file" in relay else ""
    except OSError as error:
        raise OffloadError(
            f"cannot read {error.filename}, which names the relay's key or authority: "
            f"{error.strerror}",
            "the key file holds what leases for the relay are signed with",
        ) from error
    if len(key) < KEY_BYTES:
        raise OffloadError(
            f"{relay['key_file']} holds {len(key)} bytes; the key of a relay has at least {KEY_BYTES}",
            "copy the file that `offload relay --key-file` has made",
        )
    return RelayAccess(relay["url"], relay["dial"], key, ca)
