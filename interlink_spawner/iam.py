"""What INDIGO-IAM says of a user, as the hub and the catalog want it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["iam_groups"]


def iam_groups(auth_state: Mapping[str, Any]) -> list[str]:
    """Return the user's groups as the catalog names them: paths with a slash in front.

    For `c.GenericOAuthenticator.auth_state_groups_key`: a string cannot name a claim with a dot.

    Parameters
    ----------
    auth_state : mapping
        Of the hub; `oauth_user` is the IAM's answer at its userinfo endpoint.

    Notes
    -----
    A client with the scope `wlcg.groups` gets paths in the claim of that name (WLCG token profile 1.0,
    "wlcg.groups"). IAM's own profile has `groups` instead, paths without the slash in front.
    """
    user = auth_state.get("oauth_user") or {}
    groups = user.get("wlcg.groups", user.get("groups")) or []
    return [f"/{str(group).lstrip('/')}" for group in groups]
