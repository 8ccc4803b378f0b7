"""Prometheus metrics of the relay, read from the directory when they are asked for."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from offload_relay.server.endpoints import Directory, Phase

__all__ = ["Metrics"]


class Metrics:
    """Counters of events, and gauges over a `Directory`. No label holds a user, job or token."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        #: Tells busy streams, idle streams and WebSockets of a gateway.
        self.gateway: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)
        self._registry = CollectorRegistry()
        self.refused = Counter(
            "offload_relay_refused",
            "Connections and dials refused, by reason.",
            ["reason"],
            registry=self._registry,
        )
        self.dials = Counter(
            "offload_relay_dials",
            "Streams opened, by direction (site: towards an agent, session: by the gateway towards "
            "an agent, hub: towards the hub's net).",
            ["to"],
            registry=self._registry,
        )
        self.requests = Counter(
            "offload_relay_gateway_requests",
            "Requests through the gateway, by class of their status.",
            ["status"],
            registry=self._registry,
        )
        self.repeated = Counter(
            "offload_relay_gateway_repeated",
            "Requests that were sent again, since the server had just closed their stream.",
            registry=self._registry,
        )
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield what is counted at the time of asking (the collector protocol of the client)."""
        agents = list(self._directory.agents())
        phases = Tally(agent.phase for agent in agents)
        gauge = GaugeMetricFamily("offload_relay_agents", "Agents, by state.", labels=["state"])
        for phase in Phase:
            gauge.add_metric([phase.value], phases[phase])
        yield gauge
        yield GaugeMetricFamily(
            "offload_relay_endpoints", "Endpoints held.", sum(len(a.endpoints) for a in agents)
        )
        yield GaugeMetricFamily(
            "offload_relay_parked", "Parked connections.", sum(len(a.parked) for a in agents)
        )
        yield GaugeMetricFamily(
            "offload_relay_streams", "Open streams.", sum(len(a.streams) for a in agents)
        )
        carried = CounterMetricFamily(
            "offload_relay_bytes", "Bytes carried, by direction.", labels=["direction"]
        )
        carried.add_metric(
            ["from_site"], self._directory.bytes_in + sum(a.bytes_in for a in agents)
        )
        carried.add_metric(
            ["to_site"], self._directory.bytes_out + sum(a.bytes_out for a in agents)
        )
        yield carried
        busy, idle, websockets = self.gateway()
        streams = GaugeMetricFamily(
            "offload_relay_gateway_streams",
            "Streams of the gateway to the servers of sessions, by state.",
            labels=["state"],
        )
        streams.add_metric(["busy"], busy)
        streams.add_metric(["idle"], idle)
        yield streams
        yield GaugeMetricFamily(
            "offload_relay_gateway_websockets", "WebSockets open through the gateway.", websockets
        )

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self._registry)
