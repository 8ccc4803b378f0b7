"""How the seed of a site, its always-on workers, is shared by the clusters in use. Pure.

A worker belongs to one Dask cluster of one user: its process, its certificate and its job, which runs
as that user, cannot be handed to another. So what is shared is not workers but the right to keep some
of them while there is nothing to do: first among users, then among the clusters of each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["seed_share"]


def seed_share(seed: int, holders: Mapping[str, Collection[str]], user: str, cluster: str) -> int:
    """Return how many workers `cluster` of `user` may keep while it has nothing to do.

    Parameters
    ----------
    seed : int
        Of the site, in workers.
    holders : mapping
        User to the ids of their adaptive clusters in use at the site, this one included.
    user, cluster : str
        Whose share is asked for.

    Returns
    -------
    int
        All shares together are the seed exactly; 0 for a cluster that is not among `holders`.
    """
    with_clusters = sorted(name for name, clusters in holders.items() if clusters)
    if user not in with_clusters or cluster not in holders[user]:
        return 0
    of_user = _part(seed, len(with_clusters), with_clusters.index(user))
    clusters = sorted(holders[user])
    return _part(of_user, len(clusters), clusters.index(cluster))


def _part(total: int, count: int, rank: int) -> int:
    """Return one of `count` nearly equal parts of `total`; the first ones are the larger ones."""
    size, larger = divmod(total, count)
    return size + (rank < larger)
