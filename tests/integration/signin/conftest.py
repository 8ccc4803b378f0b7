"""A real issuer of tokens for the hubs of these tests."""

import pytest

from tests.support.signinhub import Issuer


@pytest.fixture(scope="module")
def issuer(tmp_path_factory):
    issuer = Issuer(tmp_path_factory.mktemp("issuer"))
    issuer.up()
    yield issuer
    issuer.down()
