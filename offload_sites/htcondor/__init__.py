"""The site kind `htcondor-ce`: an HTCondor-CE, or a plain HTCondor schedd."""

from __future__ import annotations

from offload_sites.backend import TokenSource
from offload_sites.htcondor.backend import HTCondorBackend
from offload_sites.htcondor.tokens import EnvironmentTokens
from offload_sites.registry import SiteKind
from offload_sites.site_models import HTCondorCESite

__all__ = ["KIND", "EnvironmentTokens", "HTCondorBackend", "create"]


def create(name: str, site: HTCondorCESite, tokens: TokenSource | None = None) -> HTCondorBackend:
    """Return the back end of the site `name` for one user, by default of the environment's token."""
    if site.authentication != "scitokens":
        return HTCondorBackend(name, site, None)
    return HTCondorBackend(name, site, tokens or EnvironmentTokens(name))


KIND = SiteKind("htcondor-ce", HTCondorCESite, create, per_user=True)
