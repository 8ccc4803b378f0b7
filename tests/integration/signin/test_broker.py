"""The hub's broker of site tokens, with a real hub and a real issuer.

Tests share a hub; each asks for a site of its own, since tokens are kept.
"""

import time

import jwt
import pytest
import requests

from offload_service.tokens import HubTokens
from offload_sites.errors import NotAuthorizedError, OffloadError, SiteUnavailableError
from tests.support.signinhub import SignInHub
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.hub

COMPUTE = "compute.create compute.read compute.modify compute.cancel"


@pytest.fixture(scope="module")
def running_hub(tmp_path_factory, issuer):
    hub = SignInHub(tmp_path_factory.mktemp("hub"), issuer)
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def hub(running_hub, issuer):
    """Lend a hub whose issuer works, and at which alice has just signed in."""
    issuer.control(fail_refresh=None, down=False, access_life=3600, rotate_refresh=False)
    running_hub.sign_in()
    yield running_hub
    issuer.control(fail_refresh=None, down=False, access_life=3600, rotate_refresh=False)


def claims(answer):
    assert answer.status_code == 200, answer.text
    return jwt.decode(answer.json()["token"], options={"verify_signature": False})


def test_the_service_gets_a_token_for_one_site_and_for_jobs_alone(hub):
    answer = hub.ask()
    told = claims(answer)
    assert told["sub"] == "alice"
    assert told["aud"] == "ce0.example.org:9619"
    assert told["scope"] == COMPUTE
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_token_is_made_once_and_renewed_before_its_end(hub, issuer):
    issuer.control(access_life=8)
    before = issuer.hits["refresh_token"]
    first = hub.ask(site="ce1").json()
    assert hub.ask(site="ce1").json() == first
    assert issuer.hits["refresh_token"] == before + 1

    def renewed():
        answer = hub.ask(site="ce1")
        assert claims(answer)["exp"] > time.time(), "it has ended"
        return answer.json() != first

    eventually_sync(renewed, within_s=10)


def test_nobody_but_the_service_itself_gets_a_token(hub):
    assert hub.ask(token=hub.tokens["other"]).status_code == 403
    assert hub.ask(token=hub.user_token("alice")).status_code == 403
    assert hub.ask(token="0" * 32).status_code == 403
    assert hub.ask(token="").status_code == 403


def test_nonsense_gets_a_sentence_and_no_token(hub):
    assert hub.ask("nobody").status_code == 404
    assert hub.ask(site="nowhere").json()["message"] == "the catalog has no site 'nowhere'"
    assert "takes no token" in hub.ask(site="here").json()["message"]
    assert "compute.*" in hub.ask(site="greedy").json()["hint"]
    assert "'egi'" in hub.ask(site="elsewhere").json()["message"]
    assert hub.ask({"name": "alice"}).status_code == 400


def test_who_never_signed_in_is_told_to(hub):
    headers = {"Authorization": f"token {hub.tokens['other']}"}
    requests.post(f"{hub.api}/users/bob", headers=headers, timeout=30)
    answer = hub.ask("bob")
    assert answer.status_code == 403
    assert "no sign-in of 'bob'" in answer.json()["message"]
    assert "sign in again" in answer.json()["hint"]


def test_a_sign_in_that_was_revoked_says_sign_in_again_and_works_after_it(hub, issuer):
    issuer.control(fail_refresh="invalid_grant")
    answer = hub.ask(site="ce2")
    assert answer.status_code == 403
    assert "has ended, or was revoked" in answer.json()["message"]
    assert "sign in again" in answer.json()["hint"]
    asked = issuer.hits["refresh_token"]
    assert hub.ask(site="ce2").status_code == 403
    assert issuer.hits["refresh_token"] == asked, "asked again in vain"
    issuer.control(fail_refresh=None)
    hub.sign_in()
    assert claims(hub.ask(site="ce2"))["sub"] == "alice"


def test_while_the_issuer_is_not_well_known_tokens_are_used_and_new_ones_come_after(hub, issuer):
    first = hub.ask(site="ce3").json()["token"]
    issuer.control(down=True)
    assert hub.ask(site="ce3").json()["token"] == first
    answer = hub.ask(site="ce4")
    assert answer.status_code == 503
    assert "'iam' is not well" in answer.json()["message"]
    issuer.control(down=False)
    eventually_sync(lambda: hub.ask(site="ce4").status_code == 200, within_s=30)


def test_a_token_that_should_be_renewed_is_used_to_its_end_if_it_cannot_be(hub, issuer):
    issuer.control(access_life=120)
    first = hub.ask(site="ce5").json()
    issuer.control(access_life=40, down=False)
    assert hub.ask(site="ce6").status_code == 200
    issuer.control(down=True)
    assert hub.ask(site="ce5").json() == first


def test_an_issuer_that_cannot_be_reached_is_no_answer(hub, issuer):
    issuer.down()
    try:
        answer = hub.ask(site="ce7")
        assert answer.status_code == 503
        assert answer.json()["message"] == "the sign-in service 'iam' does not answer"
    finally:
        issuer.up()
    eventually_sync(lambda: hub.ask(site="ce7").status_code == 200, within_s=30)


def test_a_refresh_token_that_changes_with_each_use_is_kept(hub, issuer):
    issuer.control(rotate_refresh=True, access_life=1)
    hub.sign_in()
    tokens = set()

    def another():
        answer = hub.ask(site="ce8")
        assert answer.status_code == 200, answer.text
        tokens.add(answer.json()["token"])
        return len(tokens) == 3

    eventually_sync(another, within_s=30)


async def test_the_client_of_the_service_keeps_a_token_and_tells_what_the_hub_says(hub, issuer):
    tokens = HubTokens(hub.api, hub.tokens["offload"], "alice", "ce9")
    before = issuer.hits["refresh_token"]
    assert await tokens.token() == await tokens.token()
    assert issuer.hits["refresh_token"] == before + 1
    with pytest.raises(OffloadError, match="gives this service no tokens"):
        await HubTokens(hub.api, "wrong", "alice", "ce9").token()
    issuer.control(fail_refresh="invalid_grant")
    hub.sign_in()
    with pytest.raises(NotAuthorizedError, match="has ended, or was revoked"):
        await HubTokens(hub.api, hub.tokens["offload"], "alice", "ce10").token()
    with pytest.raises(SiteUnavailableError, match="the hub does not answer"):
        await HubTokens("http://127.0.0.1:1/hub/api", "x", "alice", "ce9").token()
    assert hub.tokens["offload"] not in repr(tokens)


def test_no_token_is_in_the_log_of_the_hub(hub):
    assert "eyJ" not in hub.log.replace("state=eyJ", "")


def test_by_exchange_the_full_token_is_renewed_first(tmp_path, issuer):
    hub = SignInHub(tmp_path, issuer, more='c.TokenBroker.grant = "exchange"')
    hub.start()
    try:
        issuer.control(access_life=1)
        hub.sign_in()
        time.sleep(1.1)  # the only way to have a token that has ended
        issuer.control(access_life=3600)
        told = claims(hub.ask())
        assert (told["aud"], told["scope"]) == ("ce0.example.org:9619", COMPUTE)
        assert told["act"] == {"sub": "hub"}
    finally:
        hub.stop()
