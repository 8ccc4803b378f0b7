"""A search for good hyper-parameters over many GPUs; without a GPU it runs as well, only slower.

Trains a small neural network (two hidden layers, Adam) that tells signal from background in simulated
collisions, many times with different settings. After each round the worse half is given up and the
better one trained on (successive halving), so that most of the time goes into what is promising. Each
worker has one GPU: `cupy` is used where an image has it, `numpy` elsewhere. What a trial has learned
stays on its worker between the rounds.

    python examples/hyperparameters.py [--workers 4] [--trials 16] [--profile a100x4] [--catalog FILE]
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_offload import OffloadCluster

_EVENTS = 20_000
_FEATURES = 8


@dataclass(frozen=True)
class Settings:
    """The hyper-parameters of one trial."""

    width: int
    rate: float
    batch: int
    decay: float


def draw(trials: int, seed: int = 1) -> list[Settings]:
    """Return as many settings, drawn at random; rates and decays over orders of magnitude."""
    random = np.random.default_rng(seed)
    return [
        Settings(
            width=int(random.choice([8, 16, 32, 64, 128])),
            rate=float(10 ** random.uniform(-4.5, -1.0)),
            batch=int(random.choice([64, 256, 1024])),
            decay=float(10 ** random.uniform(-6, -2)),
        )
        for _ in range(trials)
    ]


def simulate(events: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels: signal sits in a shell and in a correlation, not in one feature."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(events, _FEATURES)).astype(np.float32)
    radius = np.linalg.norm(features[:, :3], axis=1)
    score = np.exp(-(((radius - 1.6) / 0.5) ** 2)) + 0.8 * features[:, 3] * features[:, 4]
    noise = random.normal(scale=0.3, size=events)
    return features, (score + noise > np.median(score)).astype(np.float32)


def train(settings: Settings, learned: Any, epochs: int) -> tuple[float, Any]:
    """Train one trial on for some epochs; return its score on other events, and what it has learned.

    The score is the area under the ROC curve: 0.5 for a coin, 1 for a perfect separation.
    """
    xp = _arrays()
    features, labels = (xp.asarray(part) for part in simulate(_EVENTS, seed=7))
    random = np.random.default_rng(0 if learned is None else learned["step"])
    given = _begin(settings, random) if learned is None else learned
    # Copies: what a round has left on a worker may be asked for again.
    state = {"step": given["step"]} | {
        part: {name: xp.array(value) for name, value in given[part].items()}
        for part in ("weights", "moments")
    }
    for _ in range(epochs):
        order = random.permutation(_EVENTS)
        for start in range(0, _EVENTS, settings.batch):
            chosen = xp.asarray(order[start : start + settings.batch])
            gradients = _gradients(xp, state["weights"], features[chosen], labels[chosen])
            _adam(settings, state, gradients)
    others, truth = simulate(_EVENTS, seed=8)
    score = _area(_host(_forward(xp, state["weights"], xp.asarray(others))[-1]), truth)
    return score, state | {part: _hosts(state[part]) for part in ("weights", "moments")}


def _arrays() -> Any:
    """Return cupy where there is a GPU to use it on, else numpy."""
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception:  # noqa: BLE001  # no cupy, no driver, no GPU: each in its own way
        return np
    return cupy


def _begin(settings: Settings, random: np.random.Generator) -> dict[str, Any]:
    sizes = [_FEATURES, settings.width, settings.width, 1]
    weights = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        scale = np.sqrt(2 / inputs)
        weights[f"w{layer}"] = (random.normal(size=(inputs, outputs)) * scale).astype(np.float32)
        weights[f"b{layer}"] = np.zeros(outputs, np.float32)
    moments = {f"{m}{name}": np.zeros_like(value) for m in "mv" for name, value in weights.items()}
    return {"step": 0, "weights": weights, "moments": moments}


def _forward(xp: Any, weights: dict[str, Any], features: Any) -> list[Any]:
    one = xp.maximum(features @ weights["w0"] + weights["b0"], 0)
    two = xp.maximum(one @ weights["w1"] + weights["b1"], 0)
    return [features, one, two, (two @ weights["w2"] + weights["b2"])[:, 0]]


def _gradients(xp: Any, weights: dict[str, Any], features: Any, labels: Any) -> dict[str, Any]:
    *layers, output = _forward(xp, weights, features)
    error = ((1 / (1 + xp.exp(-xp.clip(output, -30, 30))) - labels) / len(labels))[:, None]
    found = {}
    for layer in (2, 1, 0):
        found[f"w{layer}"], found[f"b{layer}"] = layers[layer].T @ error, error.sum(axis=0)
        error = (error @ weights[f"w{layer}"].T) * (layers[layer] > 0)
    return found


def _adam(settings: Settings, learned: dict[str, Any], gradients: dict[str, Any]) -> None:
    learned["step"] += 1
    step, weights, moments = learned["step"], learned["weights"], learned["moments"]
    pace = settings.rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    for name, slope in gradients.items():
        first, second = moments[f"m{name}"], moments[f"v{name}"]
        first += 0.1 * (slope - first)
        second += 0.001 * (slope**2 - second)
        weights[name] -= pace * first / (second**0.5 + 1e-8)
        weights[name] *= 1 - settings.rate * settings.decay


def _area(scores: np.ndarray, truth: np.ndarray) -> float:
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(1, len(scores) + 1)
    signal = truth > 0.5
    pairs = signal.sum() * (~signal).sum()
    return float((ranks[signal].sum() - signal.sum() * (signal.sum() + 1) / 2) / pairs)


def _host(array: Any) -> np.ndarray:
    return array.get() if hasattr(array, "get") else array


def _hosts(arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: _host(array) for name, array in arrays.items()}


def search(client: Any, trials: int, epochs: int) -> list[tuple[float, Settings]]:
    """Return the trials of the last round with their scores, the best first."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    # Where workers have GPUs, one trial at a time has one.
    asks = {"GPU": 1} if any(w["resources"].get("GPU") for w in workers) else None
    going: list[tuple[Settings, Any]] = [(settings, None) for settings in draw(trials)]
    while True:
        futures = [
            client.submit(train, settings, learned, epochs, resources=asks, pure=False)
            for settings, learned in going
        ]
        scores = client.gather([client.submit(_score, future) for future in futures])
        ranked = sorted(
            zip(scores, going, futures, strict=True), key=lambda row: row[0], reverse=True
        )
        print(f"{len(ranked):3} trials of {epochs:2} epochs more: best {ranked[0][0]:.4f}")
        if len(ranked) <= 2:
            return [(score, settings) for score, (settings, _), _ in ranked]
        kept = ranked[: len(ranked) // 2]
        going = [(s, client.submit(_learned, future)) for _, (s, _), future in kept]
        epochs *= 2


def _score(result: tuple[float, Any]) -> float:
    return result[0]


def _learned(result: tuple[float, Any]) -> Any:
    return result[1]


def main() -> None:
    """Run the search on a new cluster and print the best settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument(
        "--epochs", type=int, default=1, help="of the first round; doubled each time"
    )
    parser.add_argument("--profile", help="of the catalog; one with GPUs, if there is one")
    parser.add_argument("--catalog", help="sites to use; without it, processes on this computer")
    options = parser.parse_args()

    cluster = OffloadCluster(
        options.workers, catalog=options.catalog, profile=options.profile, preload=["numpy"]
    )
    with cluster, cluster.get_client() as client:
        cluster.wait_for_workers(options.workers, timeout=600)
        began = time.monotonic()
        best = search(client, options.trials, options.epochs)
    print(f"searched for {time.monotonic() - began:.1f} s on {options.workers} workers")
    for score, settings in best:
        print(
            f"area {score:.4f}: width {settings.width}, rate {settings.rate:.2g}, "
            f"batch {settings.batch}, decay {settings.decay:.1g}"
        )


if __name__ == "__main__":
    main()
