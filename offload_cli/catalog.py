"""`offload catalog`: check a catalog, show what it comes to, print its schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from offload_cli.sites import catalog_option, open_catalog, table
from offload_sites.catalog import catalog_schema
from offload_sites.load import check_catalog
from offload_sites.registry import site_models
from offload_sites.units import render_duration

__all__ = ["catalog"]


@click.group()
def catalog() -> None:
    """Check and show catalogs of sites, images and profiles."""


@catalog.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(file: Path, *, as_json: bool) -> None:
    """Check a catalog FILE and say every problem, with its line. Exit status 1 if there is one."""
    problems = check_catalog(file)
    if as_json:
        click.echo(json.dumps([problem.__dict__ for problem in problems], indent=1))
    else:
        for problem in problems:
            click.echo(problem, err=True)
        count = len(problems)
        said = f"{count} problem{'s' * (count != 1)}" if problems else "good"
        click.echo(f"{file.name}: {said}")
    raise SystemExit(1 if problems else 0)


@catalog.command()
def schema() -> None:
    """Print the JSON Schema of catalogs, for editors."""
    click.echo(json.dumps(catalog_schema(site_models()), indent=1))


@catalog.command()
@catalog_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(catalog_path: Path | None, *, as_json: bool) -> None:
    """Show the sites, images and profiles of a catalog."""
    found = open_catalog(catalog_path)
    if as_json:
        click.echo(found.model_dump_json(indent=1, by_alias=True))
        return
    sites = [
        (name, site.kind, render_duration(site.max_walltime), site.title)
        for name, site in found.sites.items()
    ]
    images = [
        (name, image.cvmfs or image.docker or image.python or "", image.title)
        for name, image in found.images.items()
    ]
    profiles = [
        (
            name,
            ", ".join(profile.purposes),
            ", ".join(profile.sites),
            "/".join(map(str, profile.resources.cpus.choices)),
            profile.title,
        )
        for name, profile in found.profiles.items()
    ]
    click.echo(table(sites, ("SITE", "KIND", "WALLTIME", "TITLE")) + "\n")
    click.echo(table(images, ("IMAGE", "IS", "TITLE")) + "\n")
    click.echo(table(profiles, ("PROFILE", "FOR", "SITES", "CPUS", "TITLE")))
