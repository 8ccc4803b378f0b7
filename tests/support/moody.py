"""A site of real processes that is in a mood: silent, hanging, refusing, or holding what it gets.

The mood is a word in the file `mood` in the site's folder, so that a test can change it while a hub
in another process uses the site. Register it there with `register()`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Literal

from offload_sites.errors import JobRejectedError, NotAuthorizedError, SiteUnavailableError
from offload_sites.fields import AbsolutePath
from offload_sites.jobs import JobState, JobStatus, SiteHealth, SiteState
from offload_sites.local.backend import LocalBackend
from offload_sites.registry import SiteKind, site_kinds
from offload_sites.site_models import BaseSite


class MoodySite(BaseSite):
    """Its catalog entry."""

    kind: Literal["moody"]
    directory: AbsolutePath
    max_jobs: int | None = None

    @property
    def image_form(self):
        return "python"


class MoodyBackend(LocalBackend):
    """A local back end that first looks at its mood."""

    def __init__(self, name, site):
        super().__init__(name, directory=Path(site.directory) / "site", max_jobs=site.max_jobs)
        self._mood_file = Path(site.directory, "mood")

    @property
    def mood(self) -> str:
        return self._mood_file.read_text().strip() if self._mood_file.exists() else ""

    async def _feel(self) -> None:
        while self.mood == "hang":
            await asyncio.sleep(0.05)
        if self.mood == "silent":
            raise SiteUnavailableError("the moody site does not answer")

    async def submit(self, spec, jobs):
        await self._feel()
        if self.mood == "reject":
            raise JobRejectedError("the moody site has no such node", "choose another profile")
        if self.mood == "stranger":
            raise NotAuthorizedError("the moody site does not know you")
        # A job of a site that holds it is there, and waits.
        waits = f'while [ "$(cat {self._mood_file} 2>/dev/null)" = hold ]; do sleep 0.05; done'
        command = ("/bin/sh", "-c", f'{waits}; exec "$@"', "sh", *spec.command)
        return await super().submit(dataclasses.replace(spec, command=command), jobs)

    async def status(self, handles):
        handles = list(handles)
        try:
            await self._feel()
        except SiteUnavailableError as error:
            return dict.fromkeys(handles, JobStatus(JobState.UNKNOWN, error.message))
        known = await super().status(handles)
        if self.mood == "hold":
            return {handle: _held(status) for handle, status in known.items()}
        return known

    async def cancel(self, handles):
        await self._feel()
        await super().cancel(handles)

    async def find(self, key_prefix):
        await self._feel()
        return await super().find(key_prefix)

    async def health(self):
        if self.mood == "silent":
            return SiteHealth(SiteState.NO_ANSWER, "no answer from the moody site")
        if self.mood == "down":
            return SiteHealth(SiteState.DOWN, "maintenance until 18:00")
        await self._feel()
        return await super().health()


def _held(status):
    if status.state.ended:
        return status
    return dataclasses.replace(
        status,
        state=JobState.HELD,
        reason="the moody site holds it",
        said="Error from slot1_3@wn-4-12: cannot open /cvmfs/unpacked.infn.it",
        hint="this node does not see CVMFS; you need not do anything",
    )


def register() -> None:
    """Add this kind of site to those that are installed in this process."""
    kind = SiteKind("moody", MoodySite, lambda name, site, _tokens: MoodyBackend(name, site))
    site_kinds()["moody"] = kind
