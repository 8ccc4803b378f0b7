"""Which GPUs of a job belong to which of its workers. Pure.

Travels in the agent's archive: standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["VARIABLES", "TooFewError", "share_out"]

#: Variables by which batch systems and container runtimes say which GPUs a job may use, and by which
#: CUDA and ROCm are told which of them to see. The first is set even if none was.
VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


class TooFewError(ValueError):
    """The job does not have the GPUs that its workers need."""

    def __init__(self, there: int, needed: int) -> None:
        super().__init__(f"the job has {there} GPUs, and its workers need {needed}")
        self.there, self.needed = there, needed


def share_out(
    environment: Mapping[str, str], workers: int, each: int, seen: int | None = None
) -> Sequence[Mapping[str, str]]:
    """Return, for each worker, the variables that show it its GPUs and hide all others.

    Parameters
    ----------
    environment : mapping
        Of the job. GPUs named there keep their names, numbers as well as UUIDs.
    workers, each : int
        How many workers there are, and how many GPUs each of them gets.
    seen : int or None
        How many GPUs the node shows where no variable names any; None if that is not known.

    Raises
    ------
    TooFewError
        There are not enough.

    Notes
    -----
    Without `each`, the workers see what their job sees. Where no variable is set the job has a
    container, or a node, to itself, and its GPUs are counted from 0.
    """
    if not each:
        return [{} for _ in range(workers)]
    needed = workers * each
    named = {name: _names(environment[name]) for name in VARIABLES if environment.get(name)}
    if not named:
        named = {VARIABLES[0]: [str(number) for number in range(needed if seen is None else seen)]}
    fewest = min(map(len, named.values()))
    if fewest < needed:
        raise TooFewError(fewest, needed)
    return [
        {name: ",".join(ids[i * each : (i + 1) * each]) for name, ids in named.items()}
        for i in range(workers)
    ]


def _names(text: str) -> list[str]:
    # CUDA stops at the first name that is none, of which -1 and "NoDevFiles" are in use.
    names = []
    for part in text.split(","):
        name = part.strip()
        if not name or name.startswith("-") or name == "NoDevFiles":
            break
        names.append(name)
    return names
