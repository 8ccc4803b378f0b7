"""Kinds of sites come from entry points; one that is broken does not break the others."""

import importlib.metadata
import logging
import sys
import types
from typing import Literal

import pytest

from offload_sites import registry
from offload_sites.catalog import BaseSite, catalog_schema
from offload_sites.errors import CatalogError, OffloadError
from offload_sites.load import default_catalog, parse_catalog
from offload_sites.local import LocalBackend

CATALOG = """\
sites:
  pool: {kind: swarm, title: Pool, max_walltime: 8h, queen: bee}
images:
  any: {title: Any, docker: registry.example.org/any}
profiles:
  one: {title: One, sites: [pool], images: [any], resources: {cpus: 1, memory: 1GiB}}
"""


class SwarmSite(BaseSite):
    """A kind of site that this project does not know."""

    kind: Literal["swarm"]
    queen: str


SWARM = registry.SiteKind("swarm", SwarmSite, lambda name, site, tokens: (name, site.queen))


@pytest.fixture
def install(monkeypatch):
    """Return a function that adds entry points, as a package that is installed does."""
    real = importlib.metadata.entry_points

    def add(**targets):
        more = [
            importlib.metadata.EntryPoint(name, target, registry.GROUP)
            for name, target in targets.items()
        ]

        def entry_points(*, group):
            found = list(real(group=group))
            return [*more, *found] if group == registry.GROUP else found

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
        registry.site_kinds.cache_clear()

    module = types.ModuleType("swarm_of_bees")
    module.KIND = SWARM
    module.NOT_A_KIND = 3
    monkeypatch.setitem(sys.modules, "swarm_of_bees", module)
    yield add
    registry.site_kinds.cache_clear()


def test_the_kind_local_is_installed():
    assert isinstance(
        registry.create_backend("local", default_catalog().sites["local"]), LocalBackend
    )


def test_a_kind_of_another_package_is_read_checked_and_created(install):
    install(swarm="swarm_of_bees:KIND")
    catalog = parse_catalog(CATALOG)
    assert registry.create_backend("pool", catalog.sites["pool"]) == ("pool", "bee")
    with pytest.raises(CatalogError, match=r"sites\.pool\.queen: expected text, got 3"):
        parse_catalog(CATALOG.replace("bee", "3"))
    with pytest.raises(CatalogError, match="did you mean 'queen'"):
        parse_catalog(CATALOG.replace("queen", "quene"))
    assert '"queen":"bee"' in catalog.model_dump_json()


def test_a_kind_that_is_not_installed_is_a_problem_of_the_catalog():
    with pytest.raises(CatalogError, match=r"sites\.pool\.kind: expected a kind of site \('local'"):
        parse_catalog(CATALOG)


def test_the_schema_knows_the_kinds_of_other_packages(install):
    install(swarm="swarm_of_bees:KIND")
    schema = catalog_schema(registry.site_models())
    assert schema["$defs"]["SwarmSite"]["properties"]["queen"]["type"] == "string"
    (union,) = schema["properties"]["sites"]["patternProperties"].values()
    assert union["discriminator"]["mapping"]["swarm"] == "#/$defs/SwarmSite"


@pytest.mark.parametrize(
    "target", ["no_such_module_here:KIND", "swarm_of_bees:MISSING", "swarm_of_bees:NOT_A_KIND"]
)
def test_a_kind_that_cannot_be_loaded_is_logged_and_the_others_work(install, caplog, target):
    install(broken=target, swarm="swarm_of_bees:KIND")
    with caplog.at_level(logging.WARNING):
        assert {"local", "swarm"} <= set(registry.site_kinds())
    assert "broken" not in registry.site_kinds()
    [record] = caplog.records
    assert record.getMessage().startswith("sites of kind 'broken' cannot be used")


def test_a_module_that_fails_in_any_way_while_it_is_imported_is_logged(
    install, caplog, tmp_path, monkeypatch
):
    (tmp_path / "module_that_raises.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    install(broken="module_that_raises:KIND")
    assert "local" in registry.site_kinds()
    assert "no licence" in caplog.text


def test_a_site_whose_kind_has_no_back_end_here_is_a_sentence():
    site = SwarmSite(kind="swarm", title="Pool", max_walltime="8h", queen="bee")
    with pytest.raises(OffloadError) as error:
        registry.create_backend("pool", site)
    assert error.value.message == (
        "site 'pool' is of kind 'swarm', for which no back end is installed here"
    )
    assert "'local'" in error.value.hint
