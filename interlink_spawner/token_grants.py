"""What is asked of a sign-in service for a site's token, and what its answers mean. Pure.

OAuth 2.0 (RFC 6749), token exchange (RFC 8693), and the parameter `audience` as INDIGO IAM takes it
with both grants (IAM 1.8 and later).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from offload_sites.errors import NotAuthorizedError, OffloadError, SiteUnavailableError

__all__ = [
    "EXCHANGE",
    "Grant",
    "Wanted",
    "exchange_form",
    "no_sign_in",
    "parse_grant",
    "refresh_form",
    "refusal",
]

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a type

_SIGN_IN = "sign in again: log out of the hub, and in"
_AT_LEAST = timedelta(minutes=5)
# What a token lives that does not say how long: shorter than any that does.
_SHORT_LIFE = timedelta(minutes=5)


@dataclass(frozen=True)
class Wanted:
    """The token that a site takes.

    Parameters
    ----------
    site, issuer : str
        Names in the catalog.
    audience, scope : str
        Whom it is for; what it allows, in words parted by blanks.
    """

    site: str
    issuer: str
    audience: str
    scope: str


@dataclass(frozen=True)
class Grant:
    """An access token, and the refresh token that came with it, if one did."""

    token: str = field(repr=False)
    issued: datetime
    expires: datetime
    refresh_token: str = field(default="", repr=False)

    @property
    def good_until(self) -> datetime:
        """Until when it is handed out: whoever gets it wants to use it for a few minutes."""
        return self.expires - min(_AT_LEAST, (self.expires - self.issued) / 4)


def refresh_form(refresh_token: str, wanted: Wanted | None) -> dict[str, str]:
    """Return the form that turns a sign-in into a token: for a site, or a full one without it."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    if wanted is not None:
        form |= {"audience": wanted.audience, "scope": wanted.scope}
    return form


def exchange_form(access_token: str, wanted: Wanted) -> dict[str, str]:
    """Return the form that turns a full access token into one for a site."""
    return {
        "grant_type": EXCHANGE,
        "subject_token": access_token,
        "subject_token_type": _ACCESS_TOKEN,
        "requested_token_type": _ACCESS_TOKEN,
        "audience": wanted.audience,
        "scope": wanted.scope,
    }


def parse_grant(status: int, body: bytes, *, issuer: str, user: str, now: datetime) -> Grant:
    """Return the token in an answer of the token endpoint.

    Parameters
    ----------
    status : int
        Of the HTTP answer; 599 if there was none.
    body : bytes
        Of the answer.
    issuer, user : str
        For errors.
    now : datetime
        Aware UTC.

    Raises
    ------
    NotAuthorizedError
        The sign-in does not allow it, or has ended.
    SiteUnavailableError
        The sign-in service is not well.
    OffloadError
        It does not accept this hub.
    """
    answer = _parse(body)
    token = answer.get("access_token")
    if status == 200 and isinstance(token, str) and token:
        life_s = answer.get("expires_in")
        known = isinstance(life_s, int | float) and life_s > 0
        life = timedelta(seconds=float(life_s)) if known else _SHORT_LIFE  # type: ignore[arg-type]
        refresh = answer.get("refresh_token")
        return Grant(token, now, now + life, refresh if isinstance(refresh, str) else "")
    raise refusal(status, answer, issuer=issuer, user=user)


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def refusal(status: int, answer: Mapping[str, Any], *, issuer: str, user: str) -> OffloadError:
    """Return the error for an answer without a token; nothing of the answer's text is quoted."""
    error = answer.get("error")
    if 400 <= status < 500:
        if error in {"invalid_grant", "invalid_token"}:
            return NotAuthorizedError(
                f"the sign-in of {user!r} at {issuer!r} has ended, or was revoked", _SIGN_IN
            )
        if error in {"invalid_scope", "invalid_target", "access_denied"}:
            return NotAuthorizedError(
                f"the sign-in of {user!r} at {issuer!r} does not allow jobs at this site ({error})",
                f"{_SIGN_IN}; if that does not help, the hub has to ask {issuer!r} for the scopes "
                "of the site",
            )
        if error in {"invalid_client", "unauthorized_client", "unsupported_grant_type"}:
            return OffloadError(
                f"{issuer!r} does not give this hub tokens for sites ({error})",
                f"the administrator of the hub has to allow this grant for its client at {issuer!r}",
            )
    return SiteUnavailableError(
        f"the sign-in service {issuer!r} does not answer"
        if status in {0, 599}
        else f"the sign-in service {issuer!r} is not well (it answers {status})",
        "jobs that run go on; if it lasts, sign in again",
    )


def no_sign_in(issuer: str, user: str) -> NotAuthorizedError:
    """Return the error for a user of whom the hub holds nothing that tokens are made from."""
    return NotAuthorizedError(
        f"the hub has no sign-in of {user!r} at {issuer!r} that tokens can be made from", _SIGN_IN
    )
