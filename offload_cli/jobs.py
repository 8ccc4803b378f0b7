"""`offload jobs`: what is queued and running at the sites, by our own keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from dask_offload.runtime import cluster_folders
from offload_cli.sites import catalog_option, open_catalog, open_sites, run, site_option, table
from offload_sites.backend import SiteBackend
from offload_sites.catalog import Catalog
from offload_sites.errors import OffloadError
from offload_sites.jobs import JobHandle, JobStatus
from offload_sites.units import render_duration

__all__ = ["jobs"]


@dataclass(frozen=True)
class _Found:
    key: str
    handle: JobHandle
    status: JobStatus

    @property
    def cluster(self) -> str:
        """Id of the cluster or session that the job belongs to."""
        return self.key.rpartition("-")[0]

    def row(self) -> tuple[str, ...]:
        status = self.status
        age = render_duration(datetime.now(UTC) - status.since) if status.since else ""
        return self.key, str(self.handle), status.state.value, age, status.where, status.reason

    def as_json(self) -> dict[str, object]:
        status = self.status
        return {
            "key": self.key,
            "job": str(self.handle),
            "state": status.state.value,
            "since": status.since.isoformat() if status.since else None,
            "where": status.where,
            "reason": status.reason,
            "said": status.said,
            "exit_code": status.exit_code,
        }


_HEAD = ("KEY", "JOB", "STATE", "SINCE", "NODE", "REASON")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def jobs() -> None:
    """List, read, cancel jobs at the sites of a catalog."""


@jobs.command("list")
@catalog_option
@site_option
@click.option(
    "--all", "ended_too", is_flag=True, help="Ended jobs as well, while a site knows them."
)
@json_option
def list_jobs(
    catalog_path: Path | None, site: str | None, *, ended_too: bool, as_json: bool
) -> None:
    """List your jobs. Exit status 3 if a site did not answer."""
    found, silent = run(_find(open_catalog(catalog_path), site))
    shown = [job for job in found if ended_too or not job.status.state.ended]
    _print(shown, as_json=as_json, nothing="" if silent else "no jobs")
    _say_silent(silent)


@jobs.command()
@catalog_option
@click.argument("job")
def logs(catalog_path: Path | None, job: str) -> None:
    """Print what JOB (its key, or site:id) has printed so far."""
    run(_logs(open_catalog(catalog_path), job))


async def _logs(catalog: Catalog, name: str) -> None:
    async with open_sites(catalog) as sites:
        handle = await _handle(sites, name)
        logs = await sites[handle.site].logs(handle)
    click.echo(logs.stdout, nl=False)
    click.echo(logs.stderr, nl=False, err=True)


@jobs.command()
@catalog_option
@click.argument("names", metavar="JOB...", nargs=-1, required=True)
def cancel(catalog_path: Path | None, names: tuple[str, ...]) -> None:
    """Cancel jobs, by key or site:id. A running OffloadCluster replaces what it lacks."""
    run(_cancel_named(open_catalog(catalog_path), names))


async def _cancel_named(catalog: Catalog, names: Iterable[str]) -> None:
    async with open_sites(catalog) as sites:
        handles = [await _handle(sites, name) for name in names]
        await _cancel(sites, handles)


@jobs.command()
@catalog_option
@site_option
@click.option("--cancel", "do_cancel", is_flag=True, help="Cancel them.")
@json_option
def orphans(catalog_path: Path | None, site: str | None, *, do_cancel: bool, as_json: bool) -> None:
    """List jobs whose cluster does not run on this computer any more.

    They end by themselves: an agent that finds no relay, or hears that its cluster has gone, ends
    its job. Do not cancel jobs of a cluster that you run from another computer.
    """
    run(_orphans(open_catalog(catalog_path), site, do_cancel=do_cancel, as_json=as_json))


async def _orphans(catalog: Catalog, only: str | None, *, do_cancel: bool, as_json: bool) -> None:
    found, silent = await _find(catalog, only)
    alive = {folder.read("cluster.json").get("id") for folder in cluster_folders() if folder.alive}
    lost = [job for job in found if not job.status.state.ended and job.cluster not in alive]
    _print(lost, as_json=as_json, nothing="" if silent else "no orphans")
    if do_cancel and lost:
        async with open_sites(catalog, only) as sites:
            await _cancel(sites, [job.handle for job in lost])
    _say_silent(silent)


async def _find(catalog: Catalog, only: str | None) -> tuple[list[_Found], list[OffloadError]]:
    """Return all jobs of the user, and the errors of sites that did not answer."""
    found: list[_Found] = []
    silent: list[OffloadError] = []
    async with open_sites(catalog, only) as sites:
        for backend in sites.values():
            try:
                handles = await backend.find("")
                statuses = await backend.status(handles.values())
            except OffloadError as error:
                silent.append(error)
                continue
            found += [_Found(key, handle, statuses[handle]) for key, handle in handles.items()]
    return sorted(found, key=lambda job: (job.handle.site, job.key)), silent


async def _handle(sites: Mapping[str, SiteBackend], name: str) -> JobHandle:
    """Return the handle of a job named by its key, or by site:id."""
    if ":" in name:
        try:
            handle = JobHandle.parse(name)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        if handle.site not in sites:
            raise OffloadError(f"the catalog has no site {handle.site!r}")
        return handle
    silent: list[OffloadError] = []
    for backend in sites.values():
        try:
            found = await backend.find(name)
        except OffloadError as error:
            silent.append(error)
            continue
        if name in found:
            return found[name]
    if silent:
        raise silent[0]  # it may be there
    raise OffloadError(f"no site knows a job {name!r}", "`offload jobs list --all` lists them")


async def _cancel(sites: Mapping[str, SiteBackend], handles: list[JobHandle]) -> None:
    for name, backend in sites.items():
        here = [handle for handle in handles if handle.site == name]
        if here:
            await backend.cancel(here)
            click.echo(f"{name}: asked to end {', '.join(h.native_id for h in here)}", err=True)


def _print(found: list[_Found], *, as_json: bool, nothing: str) -> None:
    if as_json:
        click.echo(json.dumps([job.as_json() for job in found], indent=1))
    elif found:
        click.echo(table([job.row() for job in found], _HEAD))
    elif nothing:
        click.echo(nothing, err=True)


def _say_silent(errors: list[OffloadError]) -> None:
    for error in errors:
        click.echo(str(error), err=True)
    if errors:
        raise SystemExit(3)
