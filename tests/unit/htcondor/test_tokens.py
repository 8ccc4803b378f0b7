"""Where a token is found, and what is wrong with one."""

from datetime import UTC, datetime

import jwt
import pytest

from offload_sites.errors import NotAuthorizedError
from offload_sites.htcondor.client import client_environment, owner_expression
from offload_sites.htcondor.tokens import EnvironmentTokens, claims_of, discover, token_trouble
from offload_sites.site_models import HTCondorCESite

NOW = 1_800_000_000.0
GOOD = {
    "iss": "https://iam.example.org/",
    "sub": "alice",
    "aud": "ce.example.org:9619",
    "scope": "compute.read compute.create",
    "exp": NOW + 3600,
}
KEY = "not a secret of anybody, and long enough"


def make(**changes):
    return jwt.encode({**GOOD, **changes}, KEY)


def trouble(**changes):
    claims = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return token_trouble(
        claims, audience="ce.example.org:9619", scope="compute.read compute.create", now_s=NOW
    )


def test_the_variable_comes_first_then_the_file_it_names_then_the_usual_places(tmp_path):
    named, usual = tmp_path / "named", tmp_path / "bt_u1000"
    named.write_text("from the named file\n")
    usual.write_text("from the usual place\n")
    uid = usual.stat().st_uid
    usual = usual.rename(tmp_path / f"bt_u{uid}")
    environ = {
        "BEARER_TOKEN": " from the variable ",
        "BEARER_TOKEN_FILE": str(named),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    assert discover(environ, uid) == ("from the variable", "BEARER_TOKEN")
    del environ["BEARER_TOKEN"]
    assert discover(environ, uid) == ("from the named file", "BEARER_TOKEN_FILE")
    del environ["BEARER_TOKEN_FILE"]
    assert discover(environ, uid) == ("from the usual place", f"the file bt_u{uid}")
    assert discover({"BEARER_TOKEN_FILE": str(tmp_path / "no")}, uid) == ("", "BEARER_TOKEN_FILE")


def test_the_token_of_another_user_is_not_taken(tmp_path):
    (tmp_path / "bt_u4242").write_text("planted")
    assert discover({"XDG_RUNTIME_DIR": str(tmp_path)}, 4242) == ("", "")


async def test_a_token_that_is_renewed_is_read_anew(tmp_path):
    file = tmp_path / "token"
    file.write_text("first")
    tokens = EnvironmentTokens("centre", environ={"BEARER_TOKEN_FILE": str(file)})
    assert await tokens.token() == "first"
    file.write_text("second")
    assert await tokens.token() == "second"


async def test_no_token_and_one_that_has_ended_are_told_with_what_to_do():
    with pytest.raises(NotAuthorizedError, match="there is none here") as none:
        await EnvironmentTokens("centre", environ={"XDG_RUNTIME_DIR": "/nowhere"}).token()
    assert "BEARER_TOKEN_FILE" in none.value.hint
    with pytest.raises(NotAuthorizedError, match="BEARER_TOKEN_FILE holds none"):
        await EnvironmentTokens("centre", environ={"BEARER_TOKEN_FILE": "/nowhere"}).token()
    ended = {"BEARER_TOKEN": make(exp=int(NOW))}
    clock = f"{datetime.fromtimestamp(NOW, UTC):%H:%M} UTC"
    with pytest.raises(NotAuthorizedError, match=f"has ended at {clock}") as over:
        await EnvironmentTokens("centre", environ=ended, clock=lambda: NOW).token()
    assert "get a new one" in over.value.hint
    assert ended["BEARER_TOKEN"] not in str(over.value)


def test_claims_are_read_from_whatever_is_given():
    assert claims_of(make())["sub"] == "alice"
    for nonsense in ("", "a", "a.b.c", "é.é.é", "e30.W10.x"):
        assert claims_of(nonsense) == {}


def test_a_good_token_has_no_trouble():
    assert trouble() == ("", "")
    assert trouble(aud=["x", "https://wlcg.cern.ch/jwt/v1/any"]) == ("", "")
    assert trouble(aud="ANY", exp=None) == ("", "")


def test_each_trouble_says_value_and_limit():
    assert trouble(exp=NOW - 1)[0].startswith("the token has ended at ")
    said, hint = trouble(aud="storage.example.org")
    assert said == "the token is meant for 'storage.example.org', not for 'ce.example.org:9619'"
    assert "'ce.example.org:9619'" in hint
    assert trouble(aud=None)[0].startswith("the token is meant for none")
    assert trouble(scope="openid compute.read")[0] == "the token does not allow compute.create"
    assert trouble(scope=None)[0] == "the token does not allow compute.read, compute.create"


def test_jobs_are_told_apart_by_the_user_of_the_token_and_not_by_a_shared_account():
    assert owner_expression(GOOD) == (
        'AuthTokenSubject =?= "alice" && AuthTokenIssuer =?= "https://iam.example.org/"'
    )
    assert '\\"' in owner_expression({**GOOD, "sub": 'a" || true || "'})
    assert owner_expression({}) == ""


def test_the_client_uses_one_way_to_authenticate_and_no_other():
    fields = {"kind": "htcondor-ce", "title": "C", "collector": "c:9618", "max_walltime": "1h"}
    site = HTCondorCESite.model_validate({**fields, "ca_file": "/etc/ca.pem"})
    told = client_environment(site, "the token")
    assert told["_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS"] == "SCITOKENS"
    assert told["_CONDOR_AUTH_SSL_CLIENT_CAFILE"] == "/etc/ca.pem"
    assert told["BEARER_TOKEN"] == "the token"
    plain = {**fields, "authentication": "idtokens", "token_directory": "/etc/tokens.d"}
    told = client_environment(HTCondorCESite.model_validate(plain), "")
    assert told["_CONDOR_SEC_CLIENT_AUTHENTICATION_METHODS"] == "IDTOKENS"
    assert told["_CONDOR_SEC_TOKEN_DIRECTORY"] == "/etc/tokens.d"
    assert "BEARER_TOKEN" not in told
