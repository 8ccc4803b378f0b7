"""The one interface that every kind of site implements.

To add a kind, implement this, then run `offload_sites.testing.SiteBackendContract` on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, Self

from offload_sites.jobs import JobHandle, JobLogs, JobSpec, JobStatus, SecretFiles, SiteHealth

__all__ = ["SiteBackend", "TokenSource"]


class TokenSource(Protocol):
    """Gives the bearer token of one user for one site, where a site acts as its user.

    In a hub the token comes from the user's sign-in, restricted to the site's audience; at a login
    node from the environment. A back end asks anew for each call and keeps none.
    """

    async def token(self) -> str:
        """Return a token that is good for at least a few minutes. Cancelling is safe.

        Raises
        ------
        NotAuthorizedError
            There is none, and there will be none until the user signs in again.
        SiteUnavailableError
            Whoever issues tokens does not answer; running jobs are not concerned.
        """


class SiteBackend(Protocol):
    """Talks to one site. Bulk by nature: many jobs are one call, and one request where possible.

    An async context manager: entering acquires what it needs (a connection, a directory), leaving
    gives it back and touches no job. All methods may be cancelled at any point; a cancelled
    `submit` counts as one that raised `SiteUnavailableError`.
    """

    @property
    def site(self) -> str:
        """Name of the site in the catalog."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def submit(
        self, spec: JobSpec, jobs: Mapping[str, SecretFiles]
    ) -> Mapping[str, JobHandle]:
        """Queue one job per key of `jobs`, or return the handle of the one already sent under it.

        Parameters
        ----------
        spec : JobSpec
            What all of them have in common.
        jobs : mapping
            Key (see `jobs.check_key`) to the files that only this job may read; they appear in its
            working directory with mode 0600.

        Returns
        -------
        mapping
            Key to handle, one for each key asked for.

        Raises
        ------
        JobRejectedError
            The site refuses this spec; the same spec will fail again. None of the jobs is queued.
        JobLimitError
            The site has nothing against this spec, but against so many jobs at present. None of the
            jobs is queued.
        NotAuthorizedError
            The site refuses this user. None of the jobs is queued.
        SiteUnavailableError
            Any of them may or may not be queued; safe to call again with the same keys.
        """

    async def status(self, handles: Iterable[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the status of each of `handles`, in as few requests as the site allows.

        Never raises for a site that is silent or does not know a job: that job is `UNKNOWN`, with
        the reason. A job that has ended stays known for as long as the site remembers it.
        """

    async def cancel(self, handles: Iterable[JobHandle]) -> None:
        """Ask the site to end these jobs, with every process they have started.

        Ended and unknown jobs are passed over. Returns when the site has taken the request, which
        may be before the jobs are gone: `status` tells.

        Raises
        ------
        SiteUnavailableError
            Some may not have been asked to end; call again.
        """

    async def find(self, key_prefix: str) -> Mapping[str, JobHandle]:
        """Return key to handle of all jobs of this user whose key starts with `key_prefix`.

        Contains every job that a `submit` has queued and that has not been forgotten by the site,
        also if that `submit` never returned. Ended jobs may be among them.

        Raises
        ------
        SiteUnavailableError
            Nothing is known; an empty mapping is returned only by a site that answered.
        """

    async def logs(self, handle: JobHandle, *, tail_bytes: int = 65536) -> JobLogs:
        """Return the last `tail_bytes` bytes of each stream of a running or ended job.

        Raises
        ------
        SiteUnavailableError
            The site does not answer.
        OffloadError
            The site answers that it has no logs of this job (never started, or forgotten), or
            that it gives them out only when the job has ended.
        """

    async def health(self) -> SiteHealth:
        """Return how the site is; never raises."""
