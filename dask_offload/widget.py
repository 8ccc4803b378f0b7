"""The live view of a cluster in a notebook: the same HTML as without, and buttons. Needs ipywidgets."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from dask_offload.show import render_html
from offload_sites.errors import OffloadError

if TYPE_CHECKING:
    from dask_offload.cluster import OffloadCluster
    from dask_offload.snapshot import Snapshot

__all__ = ["make_widget"]

_RENEW_S = 2.0


def make_widget(cluster: OffloadCluster) -> Any:
    """Return the widget of `cluster`; None where ipywidgets is not installed."""
    try:
        import ipywidgets as w
    except ImportError:
        return None

    view = w.HTML(_draw(cluster))
    message = w.HTML("")
    small = w.Layout(width="5.5em")
    snapshot = cluster.snapshot
    keep = w.BoundedIntText(value=snapshot.wanted, min=0, max=100_000, layout=small)
    low = w.BoundedIntText(value=0, min=0, max=100_000, layout=small)
    high = w.BoundedIntText(value=snapshot.wanted, min=0, max=100_000, layout=small)
    scale, adapt = w.Button(description="Scale"), w.Button(description="Adapt")

    def said(action: Any) -> Any:
        def click(_: object) -> None:
            message.value = ""
            try:
                action()
            except OffloadError as error:
                message.value = _escaped(str(error))

        return click

    scale.on_click(said(lambda: cluster.scale(keep.value)))
    adapt.on_click(said(lambda: cluster.adapt(low.value, high.value)))
    shown_s = [time.monotonic()]

    def renew(_: Snapshot) -> None:
        # At most every two seconds: a fleet that starts changes many times a second.
        if time.monotonic() - shown_s[0] >= _RENEW_S or cluster.snapshot.count("starting") == 0:
            shown_s[0] = time.monotonic()
            with contextlib.suppress(Exception):
                view.value = _draw(cluster)

    cluster._listeners.append(renew)  # noqa: SLF001  # the widget is a part of the cluster
    controls = w.HBox(
        [
            w.Label("Keep"),
            keep,
            w.Label("workers"),
            scale,
            w.Label("Adapt from"),
            low,
            w.Label("to"),
            high,
            adapt,
        ]
    )
    return w.VBox([view, controls, message])


def _draw(cluster: OffloadCluster) -> str:
    return render_html(cluster.snapshot, cluster.dashboard_link, calls=False)


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
