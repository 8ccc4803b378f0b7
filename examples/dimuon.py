"""The dimuon mass spectrum of real collision data, computed by workers of an OffloadCluster.

Reads `uproot-Zmumu.root` (CMS open data, 2,304 events with two muons each; shipped by the PyPI
package scikit-hep-testdata), cuts it into chunks, computes the invariant mass of each pair on the
workers, adds up the histograms as a tree, prints the position of the Z peak, and plots.

    python examples/dimuon.py [--workers 8] [--repeat 25] [--output dimuon.png]

Where this runs on more than one computer, the file travels as bytes with the tasks: 179 kB. What only
the program itself needs is imported where it needs it: dimuon.ipynb hands this file to the workers.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING

import hist
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHUNK = 144  # events; 16 chunks a file
_BRANCHES = ["E1", "px1", "py1", "pz1", "E2", "px2", "py2", "pz2"]


def data_file() -> Path:
    """Return the ROOT file; its package is never imported, since that would want a network."""
    spec = importlib.util.find_spec("skhep_testdata")
    if spec is None or spec.origin is None:
        raise SystemExit("install the data first: pip install scikit-hep-testdata==0.3.12")
    return Path(spec.origin).with_name("data") / "uproot-Zmumu.root"


def count_events(content: bytes) -> int:
    """Return how many events a ROOT file holds."""
    import io

    import uproot

    with uproot.open(io.BytesIO(content)) as file:
        return int(file["events"].num_entries)


def dimuon_masses(content: bytes, first: int, last: int) -> hist.Hist:
    """Return the histogram of the dimuon mass, in GeV, of the events `first` to `last` - 1."""
    import io

    import uproot

    with uproot.open(io.BytesIO(content)) as file:
        muons = file["events"].arrays(_BRANCHES, library="np", entry_start=first, entry_stop=last)
    energy = muons["E1"] + muons["E2"]
    momentum2 = sum((muons[f"p{axis}1"] + muons[f"p{axis}2"]) ** 2 for axis in "xyz")
    mass = np.sqrt(np.maximum(energy**2 - momentum2, 0))
    return (
        hist.Hist.new.Reg(120, 0, 120, name="mass", label="dimuon mass [GeV]").Double().fill(mass)
    )


def add(histograms: list[hist.Hist]) -> hist.Hist:
    """Return the sum of histograms."""
    return sum(histograms[1:], start=histograms[0])


def spectrum(client, content: bytes, events: int, repeat: int) -> hist.Hist:
    """Return the spectrum of `repeat` passes over the file, added up as a tree on the workers."""
    data = client.scatter(content, broadcast=True)
    starts = [*range(0, events, _CHUNK)] * repeat
    parts = [
        client.submit(dimuon_masses, data, first, min(first + _CHUNK, events), pure=False)
        for first in starts
    ]
    while len(parts) > 1:
        parts = [client.submit(add, parts[i : i + 16]) for i in range(0, len(parts), 16)]
    return parts[0].result()


def z_peak(histogram: hist.Hist) -> float:
    """Return the position of the Z peak in GeV: the mean of the mass within 5 GeV of the top bin."""
    centers, counts = histogram.axes[0].centers, histogram.values()
    top = centers[np.argmax(np.where(centers > 60, counts, 0))]
    near = np.abs(centers - top) < 5
    return float(np.average(centers[near], weights=counts[near]))


def draw(histogram: hist.Hist, caption: str) -> Figure:
    """Return the spectrum as a figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    edges, counts = histogram.axes[0].edges, histogram.values()
    axes.stairs(counts, edges, fill=True, color="#2270a8", alpha=0.85)
    peak = z_peak(histogram)
    axes.annotate(
        f"Z boson, {peak:.1f} GeV",
        xy=(peak, counts.max()),
        xytext=(peak - 38, counts.max() * 0.92),
        arrowprops={"arrowstyle": "->", "color": "#5c636a"},
    )
    axes.set(xlabel="dimuon mass [GeV]", ylabel="pairs per GeV", xlim=(0, 120))
    axes.set_title(caption, loc="left", fontsize=10, color="#5c636a")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Run the analysis on a new cluster and print what came out."""
    from dask_offload import OffloadCluster

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=25, help="passes over the file")
    parser.add_argument("--catalog", help="sites to use; without it, processes on this computer")
    parser.add_argument("--output", type=Path, default=Path("dimuon.png"))
    options = parser.parse_args()

    content = data_file().read_bytes()
    events = count_events(content)
    began = time.monotonic()
    with OffloadCluster(
        options.workers, catalog=options.catalog, preload=["uproot", "hist"]
    ) as cluster:
        with cluster.get_client() as client:
            cluster.wait_for_workers(options.workers, timeout=300)
            ready = time.monotonic()
            histogram = spectrum(client, content, events, options.repeat)
            used = len(client.scheduler_info(n_workers=-1)["workers"])
        done = time.monotonic()
        relayed = cluster.bytes_through_relay()
        print(cluster)
    pairs = int(histogram.sum())
    print(f"events analysed      {events * options.repeat:>10,}")
    print(f"pairs below 120 GeV  {pairs:>10,}")
    print(f"Z peak               {z_peak(histogram):>10.2f} GeV")
    print(f"workers used         {used:>10}")
    print(f"through the relay    {relayed / 2**20:>10.1f} MiB")
    print(f"workers ready after  {ready - began:>10.1f} s")
    print(f"computed in          {done - ready:>10.1f} s")
    caption = f"{events * options.repeat:,} events of CMS open data, {used} workers"
    draw(histogram, caption).savefig(options.output, dpi=140)
    print(f"plotted to           {options.output.resolve()}")


if __name__ == "__main__":
    main()
