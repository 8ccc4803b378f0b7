"""The command `offload` and its groups."""

from __future__ import annotations

import sys

import click

from offload_cli.catalog import catalog
from offload_cli.doctor import doctor
from offload_cli.jobs import jobs
from offload_cli.pod import pod
from offload_cli.relay import relay
from offload_cli.service import service
from offload_relay.errors import RelayError
from offload_sites.errors import OffloadError

__all__ = ["cli", "main"]

_UNREACHABLE = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="interlink-offload")
def cli() -> None:
    """Run Dask workers and JupyterLab sessions on machines that can only dial out."""


for command in (catalog, doctor, jobs, pod, relay, service):
    cli.add_command(command)


def main() -> None:
    """Run the command; errors are sentences, and exit codes tell what sort they are.

    0 good, 1 problems found, 2 wrong usage, 3 a site or relay did not answer (try again).
    """
    try:
        cli()
    except (OffloadError, RelayError) as error:
        click.echo(f"offload: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        sys.exit(_UNREACHABLE if error.transient else 1)
