"""What the oldest supported hub needs: a failing refresh of a sign-in must not lock out what runs."""

import pytest
import requests

from tests.support.signinhub import Issuer, SignInHub, old_hub
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.htcondor

_AGE = "c.Authenticator.auth_refresh_age = 1"
_KEEP = f"{_AGE}\nc.OAuthenticator.refresh_user_hook = keep_signed_in"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory):
    issuer = Issuer(tmp_path_factory.mktemp("issuer"))
    issuer.up()
    yield issuer
    issuer.down()


@pytest.mark.parametrize(("more", "status"), [(_AGE, 403), (_KEEP, 200)])
def test_a_server_goes_on_while_its_users_sign_in_cannot_be_refreshed(
    tmp_path, issuer, more, status
):
    """Without our hook it does not (403): that is what the hook is for."""
    issuer.control(access_life=3, fail_refresh=None)
    hub = SignInHub(tmp_path, issuer, more, python=old_hub())
    hub.start()
    try:
        hub.sign_in()
        headers = {"Authorization": f"token {hub.user_token('alice')}"}

        def seen():
            return requests.get(f"{hub.api}/user", headers=headers, timeout=30).status_code

        assert seen() == 200
        issuer.control(fail_refresh="invalid_grant")
        refused = "Error using refresh_token for alice"
        eventually_sync(lambda: seen() and refused in hub.log, within_s=20)
        assert {seen() for _ in range(3)} == {status}
        issuer.control(fail_refresh=None)
        eventually_sync(lambda: seen() == 200, within_s=20)
    finally:
        hub.stop()


def test_the_oldest_hub_has_a_broker_as_well(tmp_path, issuer):
    issuer.control(access_life=3600, fail_refresh=None)
    hub = SignInHub(tmp_path, issuer, python=old_hub())
    hub.start()
    try:
        hub.sign_in()
        assert hub.ask().status_code == 200
        assert hub.ask(token=hub.user_token("alice")).status_code == 403
    finally:
        hub.stop()
