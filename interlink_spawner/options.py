"""What a user asks for, from a form or as any JSON, to what the catalog makes of it. Pure.

The form is no boundary: the hub's API stores and hands over whatever it was sent. Only the five
options below are known, each of one type; what they may be is `offload_sites.resolve`'s to say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from offload_sites.catalog import Catalog
from offload_sites.errors import InvalidOptionsError
from offload_sites.resolve import Choice, Resolved, resolve
from offload_sites.wording import did_you_mean, join_names, show

__all__ = [
    "FREE_IMAGE",
    "OPTIONS",
    "parse_options",
    "parse_query",
    "read_form",
    "resolve_session",
    "walltime_choices",
]

#: What a session can be asked for, with the type that each has in JSON.
OPTIONS: Mapping[str, type] = {
    "profile": str,
    "image": str,
    "cpus": int,
    "walltime": str,
    "site": str,
}
_TYPES = {str: "text", int: "a whole number"}

#: What the form sends as an image when the user types a path; no name in a catalog has a slash.
FREE_IMAGE = "/"

_WALLTIMES = [timedelta(hours=hours) for hours in (1, 4, 8, 24, 48, 96)]


def parse_options(value: object) -> Choice:
    """Return the choice in `value`, which may be any JSON.

    Raises
    ------
    InvalidOptionsError
        It is not an object, has a key that is not known, or a value of another type.
    """
    if value is None:
        return Choice()
    if not isinstance(value, Mapping):
        raise InvalidOptionsError(
            f"expected options as an object, got {show(value)}", f"known: {join_names(OPTIONS)}"
        )
    for name, given in value.items():
        _check_option(name, given)
    return Choice(**{name: given for name, given in value.items() if given is not None})


def _check_option(name: object, given: object) -> None:
    kind = OPTIONS.get(name) if isinstance(name, str) else None
    if kind is None:
        guess = did_you_mean(name, OPTIONS) if isinstance(name, str) else ""
        raise InvalidOptionsError(
            f"there is no option {show(name)}{guess}", f"known: {join_names(OPTIONS)}"
        )
    if given is not None and (isinstance(given, bool) or not isinstance(given, kind)):
        raise InvalidOptionsError(f"{name}: expected {_TYPES[kind]}, got {show(given)}")


def read_form(form: Mapping[str, Sequence[object]]) -> dict[str, object]:
    """Return the options in the fields of the spawn form.

    Parameters
    ----------
    form : mapping
        Name to values. `profile`, and for the chosen one `<profile>.image`, `.image_path`, `.cpus`,
        `.walltime`, `.site`. All other fields are ignored: the form holds those of each profile.

    Raises
    ------
    InvalidOptionsError
        A number is none, or a path is missing.
    """
    profile = _field(form, "profile")
    if not profile:
        raise InvalidOptionsError("no profile was chosen", "choose one")
    options: dict[str, object] = {"profile": profile}
    image = _field(form, f"{profile}.image")
    if image == FREE_IMAGE:
        image = _field(form, f"{profile}.image_path")
        if not image:
            raise InvalidOptionsError("image: no path was given", "give the path of the image")
    chosen = {
        "image": image,
        "cpus": _number(_field(form, f"{profile}.cpus")),
        "walltime": _field(form, f"{profile}.walltime"),
        "site": _field(form, f"{profile}.site"),
    }
    return options | {name: value for name, value in chosen.items() if value}


def parse_query(query: Mapping[str, Sequence[object]]) -> dict[str, object]:
    """Return the options in the query of a link that starts a session: `?profile=htc&cpus=8`.

    Raises
    ------
    InvalidOptionsError
        An option is not known, or a number is none.
    """
    options: dict[str, object] = {}
    for name in query:
        _check_option(name, None)
        value = _field(query, name)
        options[name] = _number(value) if OPTIONS[name] is int else value
    return options


def _field(form: Mapping[str, Sequence[object]], name: str) -> str:
    """Return the last value of a field, as browsers and users mean it; empty if it is not there."""
    values = form.get(name) or [""]
    value = values[-1]
    return value.strip() if isinstance(value, str) else ""


def _number(text: str) -> int | None:
    if not text:
        return None
    # int() takes much that nobody means, and thousands of digits for a long time.
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidOptionsError(f"cpus: expected a whole number, got {show(text)}")
    return int(text)


def resolve_session(catalog: Catalog, value: object, *, groups: Collection[str]) -> Resolved:
    """Return what the options in `value` come to for a member of `groups`.

    Raises
    ------
    InvalidOptionsError
        A sentence on the first thing that is not offered.
    """
    return resolve(catalog, parse_options(value), purpose="session", groups=groups)


def walltime_choices(default: timedelta, most: timedelta) -> list[timedelta]:
    """Return what the form offers: usual times up to `most`, the default and `most` among them."""
    usual = [time for time in _WALLTIMES if time < most]
    return sorted({*usual, default, most})
