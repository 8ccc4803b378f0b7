"""Parts of pages that are not rendered by the hub itself: the form, and a progress that moves."""

from __future__ import annotations

import importlib.resources
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader

from interlink_spawner.form import form_of
from interlink_spawner.progress import Progress
from offload_sites.errors import OffloadError
from offload_sites.resolve import offered

if TYPE_CHECKING:
    from interlink_spawner.spawner import InterLinkSpawner

__all__ = ["TEMPLATES", "render_form", "render_progress"]

#: Folder of our templates, for `JupyterHub.template_paths`.
TEMPLATES = str(importlib.resources.files("interlink_spawner") / "templates")

# A form that waits longer than this for a site is worse than one that says "not asked yet".
_HEALTH_WITHIN_S = 1.5


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def _render(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(**values)


def render_progress(page: Progress) -> str:
    """Return the part of the page of a starting session that moves with it, as HTML."""
    return _render("offload/progress.html", page=page)


async def render_form(spawner: InterLinkSpawner, wanted: object = None) -> str:
    """Return the spawn form for the user of `spawner`, as HTML without its `form` element.

    Parameters
    ----------
    spawner : InterLinkSpawner
        Whose user, groups and last options they are.
    wanted : object
        Options that were chosen just now, in vain; the form keeps them.
    """
    try:
        desk = spawner.desk
        await desk.started()
        catalog = desk.catalog
    except OffloadError as error:
        spawner.log.error("the spawn form cannot be shown: %s", error)  # noqa: TRY400
        return _render("offload/form.html", form=None)
    groups = spawner.groups
    profiles = offered(catalog, purpose="session", groups=groups)
    sites = dict.fromkeys(site for profile in profiles.values() for site in profile.sites)
    seen = await desk.healths(
        sites, user=spawner.user.name, tokens=spawner.token_source, within_s=_HEALTH_WITHIN_S
    )
    form = form_of(
        catalog,
        groups=groups,
        seen=seen,
        waits=desk.waits,
        last=spawner.orm_spawner.user_options,
        wanted=wanted,
        now=desk.clock(),
    )
    return _render("offload/form.html", form=form)
