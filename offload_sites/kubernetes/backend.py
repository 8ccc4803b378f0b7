"""Jobs as pods: the back end of the kinds `kubernetes` and `interlink`. Thin; others decide.

Sites are listed, not watched: a poll is two requests for all jobs, and there is no stream whose end
could go unnoticed (docs/decisions/0036). Records are listed before pods, so that a pod which a
record speaks of is in the list unless it was deleted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self, TypeVar

from offload_sites.errors import OffloadError, SiteUnavailableError
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
from offload_sites.kubernetes import manifest
from offload_sites.kubernetes.client import ApiError, KubeApi
from offload_sites.kubernetes.naming import (
    ANNOTATION,
    JOB_LABEL,
    SITE_LABEL,
    is_job_name,
    job_name,
    render_time,
)
from offload_sites.kubernetes.record import Record, ended_mark, parse_record
from offload_sites.kubernetes.states import status_of_missing, with_record

__all__ = ["PodBackend", "PodKind"]

log = logging.getLogger(__name__)

T = TypeVar("T")

# Ended jobs are forgotten after this time; looked for once in a while.
_KEPT = timedelta(hours=24)
_SWEEP_EVERY_S = 600.0
# A selector that names jobs is shorter than a list of all of them, up to here.
_BY_NAME = 20
# A pod that has waited so long may have said why in an event.
_QUIET = timedelta(seconds=20)
_FORBIDDEN = 403
_TAIL_LINES = 5000


class PodKind(Protocol):
    """What differs between kinds of nodes."""

    def check(self, spec: JobSpec) -> None:
        """Raise JobRejectedError if no node can run this."""

    def script(self, key: str, spec: JobSpec, files: Iterable[str]) -> str:
        """Return the script that starts a job."""

    def pod(self, job: manifest.PodJob) -> dict[str, Any]:
        """Return the pod of a job."""

    def status(
        self, pod: Mapping[str, Any], walltime: timedelta, warnings: Iterable[str]
    ) -> JobStatus:
        """Return what a pod says of its job."""

    async def trouble(self, api: KubeApi, *, to_end: bool = False) -> str:
        """Return why nothing that pods say can be relied on at present; empty if it can.

        `to_end`: why none may be deleted at present.
        """

    async def health(self, api: KubeApi, pods: Collection[Mapping[str, Any]]) -> SiteHealth:
        """Return how the site is, given the pods of our jobs there. May raise as `KubeApi` does."""


class PodBackend:
    """Runs jobs as pods in one namespace.

    Parameters
    ----------
    name : str
        Name of the site in the catalog.
    api : KubeApi
        How the API is reached.
    kind : PodKind
        What is special about its nodes.

    Notes
    -----
    The native id of a job is the name of its pod, which follows from its key: what was sent twice
    exists once. What of a job outlives its pod is described in `record.py`.
    """

    def __init__(self, name: str, api: KubeApi, kind: PodKind) -> None:
        self._name = name
        self._api = api
        self._kind = kind
        self._swept_s = 0.0
        self._may_list_events = True

    def __repr__(self) -> str:
        return f"<PodBackend {self._name!r}>"

    @property
    def site(self) -> str:
        """Name of the site in the catalog."""
        return self._name

    async def __aenter__(self) -> Self:
        """Do nothing: the first call connects, and can say what is wrong."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the connection; jobs go on."""
        await self._api.__aexit__(*exc_info)

    # --- submitting ------------------------------------------------------------------------------

    async def submit(
        self, spec: JobSpec, jobs: Mapping[str, SecretFiles]
    ) -> Mapping[str, JobHandle]:
        """Create the objects of one job per key; the first alone, to hear whether it is accepted."""
        names = {check_key(key): job_name(self._name, key) for key in jobs}
        self._kind.check(spec)
        wanted = [
            (
                manifest.PodJob(self._name, name, key, spec),
                manifest.check_files(self._name, spec, jobs[key]),
            )
            for key, name in names.items()
        ]
        try:
            for part in (wanted[:1], wanted[1:]):
                await _all(self._add(job, files) for job, files in part)
        except ApiError as error:
            problem = self._api.problem(error, "to create a job")
            if not problem.transient:
                await self._take_back(names.values())
            raise problem from error
        if jobs:
            log.info("site %s: %d jobs submitted", self._name, len(jobs))
            await self._sweep()
        return {key: JobHandle(self._name, name) for key, name in names.items()}

    async def _add(self, job: manifest.PodJob, files: Mapping[str, bytes]) -> None:
        script = self._kind.script(job.key, job.spec, files)
        created = await self._create("~/configmaps", manifest.make_record(job, script))
        record = parse_record(created or await self._api.get(f"~/configmaps/{job.name}"))
        if record.placed or record.cancelled or record.ended:
            return
        job = replace(job, owner_uid=record.uid)
        await self._create("~/secrets", manifest.make_secret(job, files))
        pod = await self._create("~/pods", self._kind.pod(job))
        if pod is None:
            pod = await self._api.get(f"~/pods/{job.name}")
        uid = pod["metadata"]["uid"]
        if (await self._mark(job.name, placed=uid)).cancelled:
            # Asked for while it was created, by somebody who has perhaps not seen the pod.
            await self._delete(job.name, uid)

    async def _create(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the new object; None if there is one of this name."""
        try:
            return await self._api.create(path, body)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return None
            raise

    async def _take_back(self, names: Iterable[str]) -> None:
        """Remove what a rejected submit has left: records without a pod, and their Secrets."""
        for name in names:
            try:
                record = parse_record(await self._api.get(f"~/configmaps/{name}"))
                if not (record.placed or record.cancelled):
                    await self._remove(name)
            except ApiError:
                continue

    # --- looking ---------------------------------------------------------------------------------

    async def status(self, handles: Iterable[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the status of each of `handles`, in two requests, and note the ends seen."""
        handles = list(handles)
        names = {
            handle.native_id
            for handle in handles
            if handle.site == self._name and is_job_name(handle.native_id)
        }
        try:
            found = await self._statuses(names) if names else {}
        except OffloadError as error:
            return dict.fromkeys(handles, JobStatus(JobState.UNKNOWN, error.message))
        unknown = status_of_missing(None)
        return {
            handle: found.get(handle.native_id, unknown) if handle.site == self._name else unknown
            for handle in handles
        }

    async def _statuses(self, names: Collection[str]) -> dict[str, JobStatus]:
        try:
            records, pods = await self._look(names)
            warnings = await self._warnings(pods.values())
            trouble = await self._kind.trouble(self._api)
        except ApiError as error:
            raise self._api.problem(error, "to look at jobs") from error
        found = {}
        for name in names:
            record, pod = records.get(name), pods.get(name)
            if pod is None:
                status = status_of_missing(record)
                if record and record.placed and not (record.ended or record.cancelled):
                    status = await self._vanished(name)
            else:
                walltime = record.walltime if record else timedelta(days=365)
                seen = self._kind.status(pod, walltime, warnings.get(name, ()))
                status = with_record(seen, record)
                if (
                    record
                    and (record.cancelled or record.ended)
                    and not (seen.state.ended or trouble)
                ):
                    await self._end_late(record, pod)
            if record and status.state.ended and not record.ended:
                await self._settle(record, status)
            if trouble and not status.state.ended:
                status = replace(status, state=JobState.UNKNOWN, reason=trouble)
            found[name] = status
        return found

    async def _end_late(self, record: Record, pod: Mapping[str, Any]) -> None:
        """Delete a pod that came after its job was over: its request was still on its way."""
        if pod["metadata"].get("deletionTimestamp"):
            return
        try:
            await self._delete(record.name, pod["metadata"]["uid"])
        except (ApiError, SiteUnavailableError) as error:
            log.warning("site %s: cannot end job %s: %s", self._name, record.key, error)

    async def _vanished(self, name: str) -> JobStatus:
        """Look again: another program may have cancelled it between our two lists."""
        try:
            return status_of_missing(parse_record(await self._api.get(f"~/configmaps/{name}")))
        except ApiError as error:
            if error.status == 404:
                return status_of_missing(None)
            raise

    async def _look(
        self, names: Collection[str]
    ) -> tuple[dict[str, Record], dict[str, Mapping[str, Any]]]:
        selector = f"{SITE_LABEL}={self._name}"
        if len(names) <= _BY_NAME:
            selector += f",{JOB_LABEL} in ({','.join(sorted(names))})"
        # In this order: see the top of the module.
        configmaps = await self._api.list("~/configmaps", labelSelector=selector)
        pods = await self._api.list("~/pods", labelSelector=selector)
        records = (parse_record(one) for one in configmaps)
        return {one.name: one for one in records}, {one["metadata"]["name"]: one for one in pods}

    async def _warnings(self, pods: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
        """Return the warnings on pods that have been pending for a while, by their names."""
        now = datetime.now(UTC)
        waiting: dict[str, Mapping[str, Any]] = {}
        for pod in pods:
            since = self._kind.status(pod, timedelta(0), ()).since
            pending = (pod.get("status") or {}).get("phase") == "Pending"
            if pending and since and now - since > _QUIET:
                waiting[pod["metadata"]["uid"]] = pod
        if not waiting or not self._may_list_events:
            return {}
        try:
            events = await self._api.list(
                "~/events", fieldSelector="type=Warning,involvedObject.kind=Pod"
            )
        except ApiError as error:
            log.info("site %s: events cannot be read (%s)", self._name, error.reason)
            self._may_list_events = error.status != _FORBIDDEN
            return {}
        found: dict[str, list[str]] = {}
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime")))
        for event in events:
            concerned = waiting.get(str((event.get("involvedObject") or {}).get("uid")))
            if concerned is None:
                continue
            if event.get("reason") == "FailedScheduling" and _has_node(concerned):
                continue  # that is over
            said = str(event.get("message") or event.get("reason"))
            found.setdefault(concerned["metadata"]["name"], []).append(said)
        return found

    async def find(self, key_prefix: str) -> Mapping[str, JobHandle]:
        """Return key to handle of all jobs that were queued and whose key starts so."""
        selector = f"{SITE_LABEL}={self._name}"
        try:
            configmaps = await self._api.list("~/configmaps", labelSelector=selector)
            records = [parse_record(one) for one in configmaps]
            records = [one for one in records if one.key.startswith(key_prefix)]
            unmarked = [one for one in records if not (one.placed or one.cancelled or one.ended)]
            pods = await self._api.list("~/pods", labelSelector=selector) if unmarked else []
        except ApiError as error:
            raise self._api.problem(error, "to list jobs") from error
        without = {one.name for one in unmarked} - {pod["metadata"]["name"] for pod in pods}
        return {
            one.key: JobHandle(self._name, one.name) for one in records if one.name not in without
        }

    async def logs(self, handle: JobHandle, *, tail_bytes: int = 65536) -> JobLogs:
        """Return the end of what the job has printed; both streams are one in a pod."""
        nothing = OffloadError(
            f"job {handle} has no logs: it never started, or its pod is gone",
            "its status says more",
        )
        if handle.site != self._name or not is_job_name(handle.native_id):
            raise nothing
        try:
            # Lines may be of any length: a bar of progress is one that never ends.
            tail = await self._api.end_of(
                f"~/pods/{handle.native_id}/log", tail_bytes, tailLines=str(_TAIL_LINES)
            )
        except ApiError as error:
            if error.status in {400, 404}:
                raise nothing from error
            raise self._api.problem(error, "to read logs") from error
        return JobLogs(stdout=tail.decode(errors="replace"))

    async def health(self) -> SiteHealth:
        """Return how the site is; never raises."""
        try:
            pods = await self._api.list("~/pods", labelSelector=f"{SITE_LABEL}={self._name}")
            return await self._kind.health(self._api, pods)
        except SiteUnavailableError as error:
            return SiteHealth(SiteState.NO_ANSWER, error.message)
        except ApiError as error:
            return SiteHealth(SiteState.DOWN, self._api.problem(error, "to list pods").message)
        except OffloadError as error:
            return SiteHealth(SiteState.DOWN, error.message)

    # --- ending ----------------------------------------------------------------------------------

    async def cancel(self, handles: Iterable[JobHandle]) -> None:
        """Mark jobs as cancelled, then delete their pods; ended and unknown ones are passed over."""
        names = {
            handle.native_id
            for handle in handles
            if handle.site == self._name and is_job_name(handle.native_id)
        }
        if not names:
            return
        try:
            trouble = await self._kind.trouble(self._api, to_end=True)
            if trouble:
                # A virtual node that cannot reach its site forgets the pod and orphans the job.
                raise SiteUnavailableError(
                    f"jobs at site {self._name!r} cannot be ended now: {trouble}",
                    "it is tried again; jobs whose owner has gone end themselves",
                )
            records, pods = await self._look(names)
            await _all(self._cancel(records.get(name), pods.get(name)) for name in names)
        except ApiError as error:
            raise SiteUnavailableError(
                self._api.problem(error, "to end jobs").message, "it is tried again"
            ) from error

    async def _cancel(self, record: Record | None, pod: Mapping[str, Any] | None) -> None:
        if record is None or record.ended:
            return
        if pod is not None and self._kind.status(pod, record.walltime, ()).state.ended:
            return
        if record.cancelled is None:
            notes = ((pod or {}).get("metadata") or {}).get("annotations") or {}
            batch = notes.get("JobID", "")
            await self._mark(
                record.name, cancelled=render_time(datetime.now(UTC)), **{"batch-id": batch}
            )
        # Without one in the list, too: a submit may have created it since.
        await self._delete(record.name, pod["metadata"]["uid"] if pod else "")

    async def _delete(self, name: str, uid: str) -> None:
        await self._api.delete(f"~/pods/{name}", uid=uid)
        await self._api.delete(f"~/secrets/{name}")

    async def _settle(self, record: Record, status: JobStatus) -> None:
        """Note how a job ended, and remove its secrets. What fails now is done by the next poll."""
        try:
            await self._api.delete(f"~/secrets/{record.name}")
            await self._mark(record.name, ended=ended_mark(status))
        except (ApiError, SiteUnavailableError) as error:
            log.warning("site %s: cannot note the end of job %s: %s", self._name, record.key, error)

    async def _mark(self, name: str, **marks: str) -> Record:
        """Set marks, and return the record with all that it has then."""
        notes = {ANNOTATION + mark: value for mark, value in marks.items() if value}
        body = {"metadata": {"annotations": notes}}
        return parse_record(await self._api.patch(f"~/configmaps/{name}", body))

    async def _remove(self, name: str) -> None:
        # The record owns the rest; but not every cluster has a garbage collector that keeps up.
        for path in (f"~/secrets/{name}", f"~/pods/{name}", f"~/configmaps/{name}"):
            await self._api.delete(path)

    async def _sweep(self) -> None:
        """Forget jobs that have ended long ago. Never the reason why a call fails."""
        if time.monotonic() - self._swept_s < _SWEEP_EVERY_S:
            return
        self._swept_s = time.monotonic()
        before = datetime.now(UTC) - _KEPT
        try:
            configmaps = await self._api.list(
                "~/configmaps", labelSelector=f"{SITE_LABEL}={self._name}"
            )
            old = [one for one in map(parse_record, configmaps) if _over(one, before)]
            await _all(self._remove(one.name) for one in old)
        except (ApiError, OffloadError) as error:
            log.warning("site %s: cannot remove old jobs: %s", self._name, error)


def _has_node(pod: Mapping[str, Any]) -> bool:
    return bool((pod.get("spec") or {}).get("nodeName"))


def _over(record: Record, before: datetime) -> bool:
    """Tell whether nobody asks for this job any more."""
    if record.ended:
        return (record.ended.since or record.submitted or before) < before
    if record.cancelled:
        return record.cancelled < before
    # A submission that was cut off, and never made again.
    return not record.placed and record.submitted is not None and record.submitted < before


async def _all(calls: Iterable[Any]) -> None:
    """Make all calls at once, wait for each, and raise the first error there was."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
