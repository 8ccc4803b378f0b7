"""Bearer tokens: where a person's program finds one, and what is wrong with one. Never logged.

Claims are read without checking the signature: they are shown to their owner, and name the jobs that
are asked about; whether to believe them is the site's business.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offload_sites.errors import NotAuthorizedError
from offload_sites.wording import join_names, show

__all__ = ["ANY_AUDIENCE", "EnvironmentTokens", "claims_of", "discover", "token_trouble"]

#: What a token says that is for every service (WLCG Common JWT Profiles 1.2; SciTokens).
ANY_AUDIENCE = frozenset({"https://wlcg.cern.ch/jwt/v1/any", "ANY"})

_GET_ONE = "get a new one, for example with htgettoken or oidc-token"
# A token that ends within this time may end on its way.
_MARGIN_S = 30.0


def discover(environ: Mapping[str, str], uid: int) -> tuple[str, str]:
    """Return the bearer token of this program, and where it was found; two empty texts if nowhere.

    Notes
    -----
    WLCG Bearer Token Discovery 1.0: ``BEARER_TOKEN``, the file ``BEARER_TOKEN_FILE``,
    ``$XDG_RUNTIME_DIR/bt_u<uid>``, ``/tmp/bt_u<uid>``; the first of these that is set decides.
    """
    token = environ.get("BEARER_TOKEN", "").strip()
    if token:
        return token, "BEARER_TOKEN"
    named = environ.get("BEARER_TOKEN_FILE")
    if named:
        return _read(Path(named)), "BEARER_TOKEN_FILE"
    runtime = environ.get("XDG_RUNTIME_DIR")
    for folder in (runtime, "/tmp"):  # noqa: S108 - the standard names it
        path = Path(folder, f"bt_u{uid}") if folder else None
        if path is not None and path.is_file() and path.stat().st_uid == uid:
            return _read(path), f"the file bt_u{uid}"
    return "", ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def claims_of(token: str) -> Mapping[str, Any]:
    """Return the claims of a JWT, unchecked; none for a text that is no JWT."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}


def token_trouble(
    claims: Mapping[str, Any], *, audience: str, scope: str, now_s: float
) -> tuple[str, str]:
    """Return what a site may dislike in a token, and a hint; two empty texts if it looks good.

    Parameters
    ----------
    claims : mapping
        Of the token.
    audience, scope : str
        What the site wants; scope in words parted by blanks.
    now_s : float
        Seconds since the epoch.
    """
    expires = claims.get("exp")
    if isinstance(expires, int | float) and expires <= now_s:
        return f"the token has ended at {_clock(expires)}", _GET_ONE
    audiences = claims.get("aud") or []
    audiences = {audiences} if isinstance(audiences, str) else set(map(str, audiences))
    if not audiences & {audience, *ANY_AUDIENCE}:
        named = join_names(sorted(audiences))
        return (
            f"the token is meant for {named}, not for {audience!r}",
            f"get one with the audience {audience!r}",
        )
    has = claims.get("scope")
    has_scopes = set(str(has).split()) if isinstance(has, str) else set(map(str, has or []))
    missing = [word for word in scope.split() if word not in has_scopes]
    if missing:
        return (
            f"the token does not allow {', '.join(missing)}",
            f"get one with the scope {scope!r}",
        )
    return "", ""


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M} UTC"


class EnvironmentTokens:
    """The token that the environment of this program offers: a `TokenSource` for one person.

    Parameters
    ----------
    site : str
        Whom it is for, as errors call it.
    environ : mapping
        The environment; read anew each time, since tokens are renewed.
    clock : callable
        Returns seconds since the epoch.
    """

    def __init__(
        self,
        site: str,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._site = site
        self._environ = environ
        self._clock = clock

    async def token(self) -> str:
        """Return the token, if there is one that still holds.

        Raises
        ------
        NotAuthorizedError
            There is none, or it has ended.
        """
        token, where = discover(self._environ, os.geteuid())
        if not token:
            found = f"{where} holds none" if where else "there is none here"
            raise NotAuthorizedError(
                f"site {self._site!r} wants a bearer token, and {found}",
                "get one, for example with htgettoken or oidc-token, and name its file in "
                "BEARER_TOKEN_FILE",
            )
        expires = claims_of(token).get("exp")
        if isinstance(expires, int | float) and expires < self._clock() + _MARGIN_S:
            raise NotAuthorizedError(
                f"the bearer token for site {self._site!r} in {show(where)[1:-1]} "
                f"has ended at {_clock(expires)}",
                _GET_ONE,
            )
        return token
