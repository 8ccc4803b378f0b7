"""Smoke test of the worker image: run it with the image's Python. Exit status 0 if workers can run.

It uses what a job of workers uses: distributed, processes, and functions that are sent to them.
"""

import importlib
import sys

IMPORTS = ("awkward", "hist", "numpy", "uproot")


def histogram(seed):
    """Fill a histogram: numpy and hist have to work together, not only to be there."""
    import hist
    import numpy

    values = numpy.random.default_rng(seed).normal(size=1000)
    return float(hist.Hist.new.Reg(10, -10, 10).Double().fill(values).sum())


def main():
    import distributed

    for name in IMPORTS:
        importlib.import_module(name)
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        sums = client.gather(client.map(histogram, range(4)))
    assert sums == [1000.0] * 4, sums
    print(f"worker: Python {sys.version.split()[0]}, distributed {distributed.__version__}: good")


if __name__ == "__main__":
    main()
