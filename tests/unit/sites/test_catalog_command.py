"""`offload catalog`: what it prints, where, and its exit status."""

import json

import pytest
from click.testing import CliRunner

from offload_cli.main import cli, main
from offload_sites.catalog import catalog_schema
from offload_sites.load import parse_catalog
from offload_sites.registry import site_models

GOOD = """\
sites:
  farm: {kind: htcondor-ce, title: Farm, collector: "ce.example.org:9619", max_walltime: 48h}
images:
  base: {title: Base, cvmfs: /cvmfs/a.example.org/base}
profiles:
  small: {title: Small, sites: [farm], images: [base], resources: {cpus: {choices: [1, 2]}, memory: 1GiB}}
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def offload(*args):
    return CliRunner().invoke(cli, ["catalog", *map(str, args)], env={"OFFLOAD_CATALOG": None})


def test_a_good_catalog_is_called_good(path):
    result = offload("check", path)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "c.yaml: good\n", "")


def test_problems_go_to_stderr_and_their_number_to_stdout(path):
    path.write_text(GOOD.replace("48h", "48").replace("[base]", "[bas]"), encoding="utf-8")
    result = offload("check", path)
    assert result.exit_code == 1
    assert result.stdout == "c.yaml: 2 problems\n"
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == ["c.yaml:2", "c.yaml:6"]


def test_one_problem_is_not_problems(path):
    path.write_text("", encoding="utf-8")
    assert offload("check", path).stdout == "c.yaml: 1 problem\n"


def test_problems_can_be_had_as_json(path):
    path.write_text(GOOD.replace("48h", "48"), encoding="utf-8")
    result = offload("check", "--json", path)
    assert result.exit_code == 1
    [problem] = json.loads(result.stdout)
    assert (problem["name"], problem["line"], problem["path"]) == (
        "c.yaml",
        2,
        "sites.farm.max_walltime",
    )
    path.write_text(GOOD, encoding="utf-8")
    result = offload("check", "--json", path)
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path):
    assert offload("check", tmp_path / "none.yaml").exit_code == 2
    assert offload("check", tmp_path).exit_code == 2


def test_the_schema_is_that_of_the_installed_kinds():
    result = offload("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == catalog_schema(site_models())


def test_a_catalog_is_shown_in_three_tables(path):
    result = offload("show", "--catalog", path)
    assert result.exit_code == 0
    assert [" ".join(line.split()) for line in result.stdout.splitlines()] == [
        "SITE KIND WALLTIME TITLE",
        "farm htcondor-ce 48 h Farm",
        "",
        "IMAGE IS TITLE",
        "base /cvmfs/a.example.org/base Base",
        "",
        "PROFILE FOR SITES CPUS TITLE",
        "small session, workers farm 1/2 Small",
    ]


def test_a_catalog_shown_as_json_has_every_field_of_each_kind_of_site(path):
    shown = json.loads(offload("show", "--json", "--catalog", path).stdout)
    farm = shown["sites"]["farm"]
    assert (farm["collector"], farm["max_walltime"]) == ("ce.example.org:9619", "48h")
    assert set(farm) == set(type(parse_catalog(GOOD).sites["farm"]).model_fields)
    assert shown["profiles"]["small"]["for"] == ["session", "workers"]


def test_without_a_file_the_built_in_catalog_is_shown():
    assert "This computer" in offload("show").stdout


def test_a_bad_catalog_ends_any_command_with_its_problems_and_status_1(path, capsys, monkeypatch):
    path.write_text(GOOD.replace("48h", "48"), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["offload", "catalog", "show", "--catalog", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(
        "offload: c.yaml:2: sites.farm.max_walltime: expected"
    )
