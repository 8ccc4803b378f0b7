"""What HTCondor's client says of a failure, as one of our errors. Pure.

The exceptions say almost nothing: every refused token reads "Failed communication with collector".
What happened stands in the client's log, which names a few things in words that are stable since
HTCondor 9 (tried with htcondor2 25.14 against 23.9).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offload_sites.errors import (
    JobRejectedError,
    NotAuthorizedError,
    OffloadError,
    SiteUnavailableError,
)
from offload_sites.htcondor.tokens import token_trouble
from offload_sites.wording import show

__all__ = ["Place", "explain"]


@dataclass(frozen=True)
class Place:
    """What errors say of a site.

    Parameters
    ----------
    name : str
        Name in the catalog.
    address : str
        host:port that was asked.
    audience, scope : str
        Of the tokens that it takes.
    claims : mapping
        Of the token that was used; empty if there was none.
    """

    name: str
    address: str
    audience: str = ""
    scope: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)


_NOT_REACHED = re.compile(
    r"Connection refused|attempt to connect to|Can't resolve|Failed to connect|No route to host"
)
_UNTRUSTED = re.compile(r"certificate verify failed|unable to get (?:local )?issuer certificate")
_REFUSED = re.compile(
    r"rejected our token|AUTHENTICATE:1004|Failed to authenticate|no usable .*token", re.I
)
_DENIED = re.compile(r'Received "DENIED" from server|PERMISSION DENIED|SECMAN:2010', re.I)
_NO_SCHEDD = re.compile(r"Unable to locate|no such daemon|not found in collector|Can't find", re.I)
_REJECTED = re.compile(
    r"SUBMIT_REQUIREMENT|submit requirement|MAX_JOBS_(?:SUBMITTED|PER_OWNER)|"
    r"Number of submitted jobs would exceed|exceeds the .* limit",
    re.I,
)


def explain(place: Place, error: str, log: str, now_s: float) -> OffloadError:
    """Return the error to raise.

    Parameters
    ----------
    place : Place
        Who was asked, and with which token.
    error : str
        Name and text of the exception.
    log : str
        What the client has logged.
    now_s : float
        Seconds since the epoch.
    """
    site = f"site {place.name!r}"
    if error.startswith("ModuleNotFoundError"):
        return OffloadError(
            f"{site} is talked to by HTCondor's client, which is not installed here",
            "pip install 'interlink-offload[htcondor]' (Linux on x86_64)",
        )
    if error == "the child process died":
        return SiteUnavailableError(f"the process that talks to {site} died; the log has its words")
    if _UNTRUSTED.search(log):
        return SiteUnavailableError(
            f"{site} shows a certificate that is not trusted here",
            "name the certificates of its authority as ca_file in the catalog",
        )
    if _DENIED.search(log) or _DENIED.search(error):
        return _denied(place, now_s)
    if _REFUSED.search(log) or _REFUSED.search(error):
        return _refused(place, now_s)
    if _REJECTED.search(error) or _REJECTED.search(log):
        words = _REJECTED.search(error) and error.partition(": ")[2]
        return JobRejectedError(
            f"{site} refused the job: {show(words, 300) if words else 'its rules do not allow it'}",
            "ask the site which jobs it takes",
        )
    if _NOT_REACHED.search(log):
        return SiteUnavailableError(f"{site} cannot be reached at {place.address}")
    if _NO_SCHEDD.search(error):
        return SiteUnavailableError(
            f"{site} answers at {place.address}, but its schedd is not there",
            "if that lasts, check the field schedd in the catalog",
        )
    return SiteUnavailableError(f"{site} broke off the call at {place.address}")


def _refused(place: Place, now_s: float) -> NotAuthorizedError:
    trouble, hint = _trouble(place, now_s)
    if trouble:
        return NotAuthorizedError(f"site {place.name!r} refuses the token: {trouble}", hint)
    if not place.claims:
        return NotAuthorizedError(
            f"site {place.name!r} does not let this user in", "ask the site for access"
        )
    who = f"{place.claims.get('sub')!r} of {place.claims.get('iss')!r}"
    return NotAuthorizedError(
        f"site {place.name!r} refuses the token of {who}, which looks good: "
        "it may not know this user, or not trust who issued the token",
        "ask the site to let this user in",
    )


def _denied(place: Place, now_s: float) -> NotAuthorizedError:
    trouble, hint = _trouble(place, now_s)
    return NotAuthorizedError(
        f"site {place.name!r} knows this user, and does not allow what was asked"
        + (f": {trouble}" if trouble else ""),
        hint or "ask the site what its users may do",
    )


def _trouble(place: Place, now_s: float) -> tuple[str, str]:
    if not place.claims:
        return "", ""
    return token_trouble(place.claims, audience=place.audience, scope=place.scope, now_s=now_s)
