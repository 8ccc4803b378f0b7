"""What HTCondor's client says of a failure, as one of our errors. Pure.

The exceptions say almost nothing: every refused token reads "Failed communication with collector".
What happened stands in the client's log, which names a few things in words that are stable since
HTCondor 9 (tried with htcondor2 25.14 against 23.9; `tests/data/htcondor` has the logs).

Theory of operation of a refusal
--------------------------------
The client writes "Failed to authenticate", and even "Server has rejected our token!", for whatever
ends a sign-in, also for a connection that broke. What it can write only after the server has had
the last word is ``AUTHENTICATE:1003``: it has told the server that it has no other method to offer,
and the server has agreed that none is left. A cut connection ends in 1002 (it broke), 1005 (while
keys were exchanged) or 1006 (the time is over) instead. Without a 1003 nobody is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offload_sites.errors import (
    JobLimitError,
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
# The end of a sign-in at which the client itself did not believe the server.
_OTHER_NAME = re.compile(r"SSL Auth: Error on check of peer certificate")
_REFUSED = re.compile(r"AUTHENTICATE:1003\b")
# Every method that was tried is named; none is, if the server takes none of ours.
_TRIED = re.compile(r"AUTHENTICATE:1004\b")
_DENIED = re.compile(r'Received "DENIED" from server|PERMISSION DENIED|SECMAN:2010', re.I)
_NO_SCHEDD = re.compile(r"Unable to locate|no such daemon|not found in collector|Can't find", re.I)
# What a schedd answers to a submission. MAX_JOBS_SUBMITTED, MAX_JOBS_PER_OWNER and
# MAX_JOBS_PER_SUBMISSION are -2, -3 and -4 where a job is to be added, and words before that.
_LIMIT = re.compile(r"Schedd says -[234]\b|MAX_JOBS_\w+", re.I)
# SUBMIT_REQUIREMENT_...: the administrator's own words follow.
_REJECTED = re.compile(
    r"(?:Unable to commit transaction|Failed to create new cluster)[,.]\s*SCHEDD:\d+:(?P<words>.*)",
    re.I | re.S,
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
        return _refused(place, f"{log}\n{error}", now_s)
    if _LIMIT.search(error):
        return JobLimitError(
            f"{site} takes no more jobs at a time, of this user or altogether",
            "ask for fewer workers, or wait until jobs have ended; the site knows its limits",
        )
    if rejected := _REJECTED.search(error):
        return JobRejectedError(
            f"{site} refused the job: {show(rejected['words'].strip(), 300)}",
            "ask the site which jobs it takes",
        )
    if _NOT_REACHED.search(log):
        return SiteUnavailableError(f"{site} cannot be reached at {place.address}")
    if _NO_SCHEDD.search(error):
        return SiteUnavailableError(
            f"{site} answers at {place.address}, but its schedd is not there",
            "if that lasts, check the field schedd in the catalog",
        )
    return SiteUnavailableError(f"the connection to {site} at {place.address} broke off")


def _refused(place: Place, words: str, now_s: float) -> OffloadError:
    site = f"site {place.name!r}"
    if _OTHER_NAME.search(words):
        return SiteUnavailableError(
            f"{site} shows a certificate that is not for {place.address}",
            "name the site in the catalog as its certificate does",
        )
    if not _TRIED.search(words):
        return NotAuthorizedError(
            f"{site} does not take the way in which users are to prove who they are",
            "check the field authentication in the catalog",
        )
    trouble, hint = _trouble(place, now_s)
    if trouble:
        return NotAuthorizedError(f"{site} refuses the token: {trouble}", hint)
    if not place.claims:
        return NotAuthorizedError(f"{site} does not let this user in", "ask the site for access")
    who = f"{place.claims.get('sub')!r} of {place.claims.get('iss')!r}"
    return NotAuthorizedError(
        f"{site} refuses the token of {who}, which looks good: "
        "it may not know this user, or not trust or not reach who issued the token",
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
