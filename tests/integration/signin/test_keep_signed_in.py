"""A sign-in that cannot be refreshed must not lock out what runs, on any hub that is supported."""

import pytest
import requests
from jupyterhub import __version__ as version

from tests.support.signinhub import SignInHub
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.hub

_AGE = "c.Authenticator.auth_refresh_age = 1"
_KEEP = f"{_AGE}\nc.OAuthenticator.refresh_user_hook = keep_signed_in"
# Hubs before 6.1 refuse servers whose user's sign-in cannot be refreshed: what the hook is for.
_STRICT = tuple(map(int, version.split(".")[:2])) < (6, 1)


@pytest.mark.parametrize(("more", "status"), [(_AGE, 403 if _STRICT else 200), (_KEEP, 200)])
def test_a_server_goes_on_while_its_users_sign_in_cannot_be_refreshed(
    tmp_path, issuer, more, status
):
    issuer.control(access_life=3, fail_refresh=None)
    hub = SignInHub(tmp_path, issuer, more)
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
        issuer.control(access_life=3600, fail_refresh=None)
        hub.stop()
