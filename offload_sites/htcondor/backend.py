"""The site kind `htcondor-ce`: an HTCondor-CE, or any HTCondor schedd, as one user."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Self

from offload_sites.backend import TokenSource
from offload_sites.errors import NotAuthorizedError, OffloadError
from offload_sites.htcondor.client import Client
from offload_sites.htcondor.endings import Endings
from offload_sites.htcondor.poll import Poll
from offload_sites.htcondor.states import (
    ATTRIBUTES,
    Ad,
    is_uploading,
    native_id,
    start_failed,
    status_from_ad,
)
from offload_sites.htcondor.submit import KEY, SUBMISSION, Submission, make_submission
from offload_sites.jobs import (
    JobHandle,
    JobLogs,
    JobSpec,
    JobState,
    JobStatus,
    SecretFiles,
    SiteHealth,
    SiteState,
    check_key,
)
from offload_sites.site_models import HTCondorCESite

__all__ = ["HTCondorBackend"]

log = logging.getLogger(__name__)

# Seconds after which a call is killed. A submission may wait for another one of the same keys.
_QUERY_S, _SUBMIT_S, _HISTORY_S, _LOGS_S, _HEALTH_S = 20.0, 90.0, 8.0, 60.0, 10.0
# An upload that has not ended after so many seconds is nobody's any more.
_PATIENCE_S = 25
_DEAD_REMEMBERED = 100
# The words of so many jobs that could not be started are fetched at a time: more say the same.
_WORDS_AT_ONCE = 4

_NATIVE_ID = re.compile(r"\d{1,9}\.\d{1,9}", re.ASCII)
# Of the start script, or of apptainer.
_START_WORDS = re.compile(r"^(?:offload-start|FATAL): +.+$", re.MULTILINE)


class HTCondorBackend:
    """Talks to one schedd as one user.

    Parameters
    ----------
    name : str
        Name of the site in the catalog.
    site : HTCondorCESite
        Its model.
    tokens : TokenSource or None
        Whose jobs they are; None where the site asks for no bearer token.

    Notes
    -----
    A native id is ``cluster.proc``. A CE gives out what a job has printed when the job has ended,
    and does not say on which node it runs.
    """

    def __init__(self, name: str, site: HTCondorCESite, tokens: TokenSource | None) -> None:
        self._name = name
        self._site = site
        self._client = Client(name, site, tokens)
        self._poll = Poll(self._look, time.monotonic)
        self._endings = Endings()
        self._dead: list[str] = []
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<HTCondorBackend {self._name!r}>"

    @property
    def site(self) -> str:
        """Name of the site in the catalog."""
        return self._name

    async def __aenter__(self) -> Self:
        """Do nothing: each call connects anew."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End a query that is on its way. Jobs are not touched."""
        await self._poll.close()

    # --- submitting and cancelling -------------------------------------------------------------

    async def submit(
        self, spec: JobSpec, jobs: Mapping[str, SecretFiles]
    ) -> Mapping[str, JobHandle]:
        """Queue one job per key, in one transaction."""
        for key in jobs:
            check_key(key)
        if not jobs:
            return {}
        submission = make_submission(self._name, self._site, spec, jobs)
        name = uuid.uuid4().hex
        order = self._order(name, submission, spec, jobs)
        try:
            answer = await self._client.call("submit", _SUBMIT_S, order=order)
        except BaseException:
            # Its child is dead: what it may have begun to upload is nobody's.
            self._dead = [*self._dead[-_DEAD_REMEMBERED:], name]
            raise
        finally:
            self._poll.outdate()
        log.info("site %s: %d jobs are in its queue", self._name, len(answer["jobs"]))
        return {key: JobHandle(self._name, answer["jobs"][key]) for key in jobs}

    def _order(
        self, name: str, submission: Submission, spec: JobSpec, jobs: Mapping[str, SecretFiles]
    ) -> dict[str, Any]:
        description = {**submission.description, f"My.{SUBMISSION}": f'"{name}"'}
        secrets = {
            key: {file: base64.b64encode(content).decode() for file, content in files.items()}
            for key, files in jobs.items()
        }
        return {
            "description": description,
            "start": submission.start,
            "inputs": {file: str(path.resolve()) for file, path in spec.inputs.items()},
            "jobs": secrets,
            "dead": self._dead,
            "patience_s": _PATIENCE_S,
        }

    async def cancel(self, handles: Iterable[JobHandle]) -> None:
        """Have the schedd remove these jobs."""
        ids = sorted(self._ours(handles))
        if ids:
            try:
                answer = await self._client.call("cancel", _QUERY_S, ids=ids)
            finally:
                self._poll.outdate()
            self._endings.cancelled(answer["ids"])

    async def find(self, key_prefix: str) -> Mapping[str, JobHandle]:
        """Return key to handle of this user's jobs in the queue, as it is now."""
        where = f"JobStatus != 3 && substr({KEY}, 0, {len(key_prefix)}) == {json.dumps(key_prefix)}"
        answer = await self._client.call(
            "query", _QUERY_S, where=where, attributes=list(ATTRIBUTES)
        )
        found = sorted(answer["ads"], key=lambda ad: (ad["ClusterId"], ad["ProcId"]), reverse=True)
        # A job whose files have not arrived is none yet, and may never be one.
        return {
            str(ad[KEY]): JobHandle(self._name, native_id(ad))
            for ad in found
            if not is_uploading(ad)
        }

    # --- status --------------------------------------------------------------------------------

    async def status(self, handles: Iterable[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the status of each of `handles`, from one query for all who ask at a time."""
        handles = list(handles)
        ids = self._ours(handles)
        open_ = {id_ for id_ in ids if self._endings.get(id_) is None}
        current, problem = await self._ask(open_) if open_ else ({}, "")
        ended = {id_: self._endings.get(id_) for id_ in ids}
        unknown = JobStatus(
            JobState.UNKNOWN,
            problem or f"site {self._name!r} does not know this job, or has forgotten it",
        )

        def status_of(handle: JobHandle) -> JobStatus:
            id_ = handle.native_id
            known = ended.get(id_) or current.get(id_) if handle.site == self._name else None
            return known or unknown

        return {handle: status_of(handle) for handle in handles}

    async def _ask(self, ids: set[str]) -> tuple[Mapping[str, JobStatus], str]:
        """Return what is known of jobs that have not ended, and why the site tells nothing if so."""
        try:
            ads = await self._poll.ads()
        except OffloadError as error:
            self._log_trouble(error.message)
            return {}, str(error)
        self._log_trouble("")
        queue = {id_: ads[id_] for id_ in ids if id_ in ads}
        self._endings.seen(queue)
        now_s = time.monotonic()
        absent = [id_ for id_ in ids - queue.keys() if self._endings.gone(id_, now_s) is None]
        history = await self._history(self._endings.due(absent, now_s))
        words = await self._words(queue)
        statuses = {}
        for id_, ad in {**queue, **history}.items():
            status = status_from_ad(
                ad,
                cancelled=self._endings.is_cancelled(id_),
                gone=id_ in history,
                told=words.get(id_, ""),
            )
            statuses[id_] = self._endings.ended(id_, status) if status.state.ended else status
        return statuses, ""

    async def _look(self) -> Mapping[str, Ad]:
        """Return native id to ad of all jobs of this user that are in the queue."""
        answer = await self._client.call(
            "query", _QUERY_S, where="true", attributes=list(ATTRIBUTES)
        )
        return {native_id(ad): ad for ad in answer["ads"]}

    async def _history(self, ids: list[str]) -> Mapping[str, Ad]:
        """Return native id to ad of those of `ids` that the schedd has in its history."""
        if not ids:
            return {}
        try:
            answer = await self._client.call(
                "history", _HISTORY_S, ids=ids, attributes=list(ATTRIBUTES)
            )
        except OffloadError as error:
            log.debug("site %s: no history: %s", self._name, error.message)
            self._endings.no_answer(ids)
            return {}
        return {native_id(ad): ad for ad in answer["ads"]}

    async def _words(self, queue: Mapping[str, Ad]) -> Mapping[str, str]:
        """Return what the start script has left word of, for jobs that could not be started."""
        ids = [id_ for id_, ad in queue.items() if start_failed(ad)][:_WORDS_AT_ONCE]
        found = await asyncio.gather(*map(self._printed, ids), return_exceptions=True)
        words = {}
        for id_, logs in zip(ids, found, strict=True):
            match = _START_WORDS.search(logs.stderr) if isinstance(logs, JobLogs) else None
            if match:
                words[id_] = match[0]
        return words

    # --- the rest ------------------------------------------------------------------------------

    async def logs(self, handle: JobHandle, *, tail_bytes: int = 65536) -> JobLogs:
        """Return what an ended job has printed."""
        for id_ in self._ours([handle]):
            return await self._printed(id_, tail_bytes)
        raise OffloadError(f"site {self._name!r} knows no job {handle.native_id!r}")

    async def _printed(self, id_: str, tail_bytes: int = 65536) -> JobLogs:
        answer = await self._client.call("logs", _LOGS_S, id_=id_, tail_bytes=tail_bytes)
        if answer["stdout"] is None:
            raise OffloadError(
                f"site {self._name!r} gives out nothing that job {id_} has printed: it has not "
                "ended by itself, or is forgotten",
                "HTCondor keeps the output of a job that has ended for a day",
            )
        return JobLogs(answer["stdout"], answer["stderr"])

    async def health(self) -> SiteHealth:
        """Return how the site is; never raises."""
        try:
            answer = await self._client.call("health", _HEALTH_S)
        except NotAuthorizedError as error:
            return SiteHealth(SiteState.DOWN, error.message)
        except OffloadError as error:
            return SiteHealth(SiteState.NO_ANSWER, error.message)
        free = answer["free_cpus"]
        if free == 0:
            return SiteHealth(SiteState.FULL, "all cores are taken", 0)
        return SiteHealth(SiteState.UP, free_cpus=free)

    def _ours(self, handles: Iterable[JobHandle]) -> set[str]:
        """Return the ids of handles that may be ours; a native id from outside may be any text."""
        return {
            handle.native_id
            for handle in handles
            if handle.site == self._name and _NATIVE_ID.fullmatch(handle.native_id)
        }

    def _log_trouble(self, trouble: str) -> None:
        """Log the first of many equal failures, and the recovery."""
        if trouble and trouble != self._trouble:
            log.warning("%s", trouble)
        elif self._trouble and not trouble:
            log.info("site %s: answers again", self._name)
        self._trouble = trouble
