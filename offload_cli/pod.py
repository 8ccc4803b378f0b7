"""`offload pod`: pods of others, such as those of workflow engines, made fit for a site."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from offload_cli.sites import catalog_option, open_catalog, run
from offload_sites.catalog import Catalog
from offload_sites.errors import InvalidOptionsError
from offload_sites.interlink.fit import fit_virtual_pod
from offload_sites.kubernetes.fit import (
    Fitted,
    fit_plain_pod,
    is_with_pod,
    open_document,
    site_of_namespace,
)
from offload_sites.kubernetes.naming import SITE_LABEL
from offload_sites.site_models import InterlinkSite, KubernetesSite, PodSite
from offload_sites.wording import did_you_mean, join_names

__all__ = ["pod"]


@click.group()
def pod() -> None:
    """Make pods of others fit for the sites of a catalog."""


@pod.command()
@catalog_option
@click.argument("file", type=click.File(encoding="utf-8"))
@click.option(
    "--site",
    "name",
    help="Site of the catalog. Default: the one that the namespace is labelled with.",
)
@click.option(
    "--namespace", help="Namespace of the pod. Default: as the file says, else the site's."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: documents, changes, problems.")
def render(
    catalog_path: Path | None, file: Any, name: str | None, namespace: str | None, *, as_json: bool
) -> None:
    """Print the pods, jobs and cron jobs in FILE (- for standard input) as a site needs them.

    What was changed, and why, goes to standard error. Exit status 1, and no documents, if a pod would
    not do at the site what it is meant to.
    """
    documents = _read(file)
    catalog = open_catalog(catalog_path)
    site = _site(catalog, name or run(_labelled(catalog, documents, namespace)))
    rendered, fitted = [], []
    for document in documents:
        if not is_with_pod(document):
            rendered.append(document)  # a Secret or ConfigMap that goes with a pod
            continue
        opened = open_document(document)
        one = _fit(catalog, site, opened.meta, opened.spec)
        fitted.append(one)
        rendered.append(opened.filled(one, namespace or site.namespace))
    _print(rendered, fitted, as_json=as_json)


def _read(file: Any) -> list[Any]:
    try:
        documents = [one for one in yaml.safe_load_all(file) if one is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InvalidOptionsError(f"{file.name}{line}: this is no YAML") from error
    if not any(map(is_with_pod, documents)):
        for document in documents[:1]:
            open_document(document)  # says what is wrong with it
        raise InvalidOptionsError(f"{file.name}: there is no pod in it")
    return documents


def _site(catalog: Catalog, name: str) -> PodSite:
    known = {n: s for n, s in catalog.sites.items() if isinstance(s, PodSite)}
    if name not in known:
        raise InvalidOptionsError(
            f"the catalog has no site {name!r} that runs pods{did_you_mean(name, known)}",
            f"there is {join_names(known)}",
        )
    return known[name]


async def _labelled(catalog: Catalog, documents: Sequence[Any], namespace: str | None) -> str:
    """Return the site that the namespace of the documents is labelled with."""
    found = (((one.get("metadata") or {}).get("namespace")) for one in documents)
    name = namespace or next(filter(None, found), None)
    if name is None:
        raise InvalidOptionsError("neither a site nor a namespace was given", "give --site")
    from offload_sites.kubernetes.client import ApiError, KubeApi

    contexts = [s.context for s in catalog.sites.values() if isinstance(s, PodSite)]
    async with KubeApi("namespaces", context=contexts[0] if contexts else None) as api:
        try:
            site = site_of_namespace(await api.get(f"/api/v1/namespaces/{name}"))
        except ApiError as error:
            raise api.problem(error, f"to look at namespace {name!r}") from error
    if not site:
        raise InvalidOptionsError(
            f"namespace {name!r} has no label {SITE_LABEL}",
            f"give --site, or: kubectl label namespace {name} {SITE_LABEL}=NAME",
        )
    return site


def _fit(
    catalog: Catalog, site: PodSite, meta: Mapping[str, Any], spec: Mapping[str, Any]
) -> Fitted:
    if isinstance(site, InterlinkSite):
        images = {
            image.docker: image.cvmfs
            for image in catalog.images.values()
            if image.docker and image.cvmfs
        }
        return fit_virtual_pod(meta, spec, site, images)
    assert isinstance(site, KubernetesSite)  # noqa: S101  # there are no other sites with pods
    return fit_plain_pod(meta, spec, site)


def _print(rendered: list[Any], fitted: list[Fitted], *, as_json: bool) -> None:
    changes = [change for one in fitted for change in one.notes.changes]
    problems = [problem for one in fitted for problem in one.notes.problems]
    if as_json:
        told = {
            "documents": [] if problems else rendered,
            "changes": [change.__dict__ for change in changes],
            "problems": [{"where": one.where, "why": one.why} for one in problems],
        }
        click.echo(json.dumps(told, indent=1))
    else:
        for change in changes:
            click.echo(str(change), err=True)
        for problem in problems:
            click.echo(f"problem: {problem}", err=True)
        if not problems:
            click.echo(yaml.safe_dump_all(rendered, sort_keys=False), nl=False)
    raise SystemExit(1 if problems else 0)
