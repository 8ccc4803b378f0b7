"""`offload doctor`: look at everything a cluster needs, and say of each whether it is good."""

from __future__ import annotations

import asyncio
import http.client
import importlib.metadata
import json
import resource
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

from dask_offload.bundle import write_worker_agent
from dask_offload.runtime import runtime_root
from dask_offload.worker import version_problem
from offload_cli.sites import catalog_option, open_catalog, open_sites, run
from offload_relay.errors import RelayError
from offload_sites.catalog import Catalog
from offload_sites.errors import CatalogError, OffloadError
from offload_sites.jobs import SiteState
from offload_sites.resolve import image_reference
from offload_sites.site_models import InterlinkSite

__all__ = ["doctor"]

_FILES_FOR_200_WORKERS = 2048
_PROBE_S = 60.0
_PROBE = (
    "import json, sys\n"
    "found = {'python': '.'.join(map(str, sys.version_info[:3]))}\n"
    "for name in ('dask', 'distributed'):\n"
    "    try: found[name] = __import__(name).__version__\n"
    "    except Exception as error: found[name + ' error'] = str(error)\n"
    "print(json.dumps(found))\n"
)


@dataclass(frozen=True)
class _Finding:
    """One line: `good` is None where it is only worth knowing."""

    good: bool | None
    what: str
    advice: str = ""

    def __str__(self) -> str:
        sign = {True: "good", False: "BAD ", None: "note"}[self.good]
        return f"{sign}  {self.what}" + (f"\n      {self.advice}" if self.advice else "")


@click.command()
@catalog_option
@click.option("--relay", "relay_url", help="Public URL of a relay to be reached, ws:// or wss://.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(catalog_path: Path | None, relay_url: str | None, *, as_json: bool) -> None:
    """Check this installation, the relay, the sites and their images. Exit status 1 if one is bad."""
    findings = run(_examine(catalog_path, relay_url, quiet=as_json))
    if as_json:
        click.echo(json.dumps([finding.__dict__ for finding in findings], indent=1))
    raise SystemExit(1 if any(finding.good is False for finding in findings) else 0)


async def _examine(
    catalog_path: Path | None, relay_url: str | None, *, quiet: bool
) -> list[_Finding]:
    findings = []
    async for finding in _findings(catalog_path, relay_url):
        findings.append(finding)
        if not quiet:
            click.echo(str(finding))
    return findings


async def _findings(catalog_path: Path | None, relay_url: str | None) -> AsyncIterator[_Finding]:
    for finding in (_versions(), _agent(), _folder(), _files()):
        yield finding
    if relay_url:
        yield await asyncio.to_thread(_relay, relay_url)
    else:
        yield _Finding(None, "relay: none given (--relay); a cluster starts its own on loopback")
    try:
        catalog = open_catalog(catalog_path)
    except CatalogError as error:
        count = len(error.problems)
        yield _Finding(False, f"catalog: {count} problem{'s' * (count != 1)}", error.problems[0])
        return
    yield _Finding(True, f"catalog: {catalog_path or 'the built-in one'}")
    async for finding in _sites(catalog):
        yield finding
    async for finding in _images(catalog):
        yield finding


def _versions() -> _Finding:
    names = ("interlink-offload", "distributed", "dask", "websockets")
    found = {name: importlib.metadata.version(name) for name in names}
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    return _Finding(True, f"Python {'.'.join(map(str, sys.version_info[:3]))}, {text}")


def _agent() -> _Finding:
    import tempfile

    try:
        with tempfile.TemporaryDirectory() as folder:
            size = write_worker_agent(Path(folder)).stat().st_size
    except RelayError as error:
        return _Finding(False, f"agent: {error.message}", error.hint)
    except OSError as error:
        return _Finding(
            False,
            f"agent: cannot be written to a folder for temporary files: {error.strerror}",
            "look for space there, or set TMPDIR to a folder that can be written",
        )
    return _Finding(True, f"agent: {size // 1024} KiB, for any Python since 3.9")


def _folder() -> _Finding:
    try:
        return _Finding(True, f"folder for clusters: {runtime_root()}")
    except OffloadError as error:
        return _Finding(False, error.message, error.hint)


def _files() -> _Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    good = hard == resource.RLIM_INFINITY or hard >= _FILES_FOR_200_WORKERS
    return _Finding(
        good,
        f"open files: at most {hard}",
        "" if good else f"raise the hard limit (ulimit -Hn) to {_FILES_FOR_200_WORKERS} or more",
    )


def _relay(url: str) -> _Finding:
    kinds = {"ws": http.client.HTTPConnection, "wss": http.client.HTTPSConnection}
    try:
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("no host")
        connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=10)
        parts.hostname.encode("idna")
    except (KeyError, ValueError):  # another scheme, no host or none that can be, no port
        return _Finding(
            False,
            f"relay: {url!r} is no URL of a relay",
            "it looks like wss://relay.example.org, or ws://10.1.2.3:8300",
        )
    try:
        connection.request("GET", parts.path.rstrip("/") + "/health")
        answer = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        return _Finding(
            False,
            f"relay: {url} does not answer ({type(error).__name__})",
            "is it running (`offload relay`), and does the firewall let this computer through?",
        )
    finally:
        connection.close()
    good = answer.status == 200
    return _Finding(good, f"relay: {url} answers {answer.status}", "" if good else "not a relay?")


async def _sites(catalog: Catalog) -> AsyncIterator[_Finding]:
    for name, site in catalog.sites.items():
        try:
            async with open_sites(catalog, name) as sites:
                health = await sites[name].health()
        except OffloadError as error:
            yield _Finding(False, f"site {name}: {error.message}", error.hint)
            continue
        good = health.state in (SiteState.UP, SiteState.FULL)
        yield _Finding(good, f"site {name}: {health.state.value}", health.reason)
        if isinstance(site, InterlinkSite):
            for finding in await _virtual_node(name, site):
                yield finding


async def _virtual_node(name: str, site: InterlinkSite) -> list[_Finding]:
    from offload_sites.interlink.examine import examine

    try:
        found = await examine(name, site)
    except OffloadError as error:
        return [_Finding(False, f"site {name}: {error.message}", error.hint)]
    return [_Finding(one.good, f"site {name}: {one.what}", one.advice) for one in found]


async def _images(catalog: Catalog) -> AsyncIterator[_Finding]:
    local = {n for n, site in catalog.sites.items() if site.kind == "local"}
    profiles = [p for p in catalog.profiles.values() if local & {*p.sites}]
    used = {choice.name for profile in profiles for choice in profile.images}
    for name, image in catalog.images.items():
        reference = image_reference(name, image)
        if name in used and reference.python.startswith("/"):
            yield await _image(name, reference.python)
        else:
            yield _Finding(None, f"image {name}: looked at when the first job starts in it")


async def _output(*argv: str) -> bytes:
    """Return what a program prints; one that takes too long is ended."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(_PROBE_S):
            output, _ = await process.communicate()
            return output
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _image(name: str, python: str) -> _Finding:
    """Look into an image whose interpreter is on this computer."""
    try:
        found = dict(json.loads(await _output(python, "-c", _PROBE)))
    except (OSError, ValueError, TypeError, TimeoutError):
        return _Finding(
            False, f"image {name}: {python} does not run", "correct `python` in the catalog"
        )
    if "distributed" not in found:
        return _Finding(False, f"image {name}: no module distributed", "install it there")
    here = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "dask": importlib.metadata.version("dask"),
        "distributed": importlib.metadata.version("distributed"),
    }
    problem = version_problem(found, here)
    if problem:
        return _Finding(False, f"image {name}: {problem[0]}", problem[1])
    return _Finding(
        True, f"image {name}: Python {found['python']}, distributed {found['distributed']}"
    )
