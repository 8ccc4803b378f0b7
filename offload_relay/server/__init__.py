"""The relay server."""

from offload_relay.server.app import Relay, RelaySettings

__all__ = ["Relay", "RelaySettings"]
