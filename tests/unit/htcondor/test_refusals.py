"""What the client's log says of a failure. The logs were recorded with htcondor2 25.14.1."""

import pytest

from offload_sites.errors import JobRejectedError, NotAuthorizedError, SiteUnavailableError
from offload_sites.htcondor.refusals import Place, explain

NOW = 1_800_000_000.0
GOOD = {
    "iss": "https://iam.example.org/",
    "sub": "alice",
    "aud": "ce:9619",
    "scope": "compute.create",
    "exp": NOW + 60,
}
SAYS_NOTHING = "HTCondorException: Failed communication with collector."
REJECTED = """\
11/24/26 10:02:10 SSL Auth: Server has rejected our token!
11/24/26 10:02:10 AUTHENTICATE: method 4096 (SCITOKENS) failed.
11/24/26 10:02:10 ERROR: AUTHENTICATE:1003:Failed to authenticate with any method|\
AUTHENTICATE:1004:Failed to authenticate using SCITOKENS
"""
DENIED = """\
11/24/26 10:02:11 SSL authentication succeeded to\x20
11/24/26 10:02:11 ERROR: SECMAN:2010:Received "DENIED" from server for user \
wp5@users.htcondor.org using method SCITOKENS.
"""
REFUSED = "attempt to connect to <127.0.0.1:1> failed: Connection refused (connect errno = 111).\n"
UNKNOWN = "Can't resolve collector nosuch.invalid:9619; skipping\n"


def told(log, error=SAYS_NOTHING, **changes):
    claims = {**GOOD, **changes}
    return explain(Place("centre", "ce:9619", "ce:9619", "compute.create", claims), error, log, NOW)


def test_a_token_that_looks_good_and_is_refused_names_its_user():
    error = told(REJECTED)
    assert isinstance(error, NotAuthorizedError)
    assert "'alice' of 'https://iam.example.org/'" in error.message
    assert "may not know this user" in error.message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exp": NOW - 1}, "the token has ended at"),
        ({"aud": "https://else.where"}, "is meant for 'https://else.where', not for 'ce:9619'"),
        ({"scope": "openid"}, "does not allow compute.create"),
    ],
)
def test_a_refused_token_is_told_with_what_is_wrong_with_it(changes, says):
    error = told(REJECTED, **changes)
    assert isinstance(error, NotAuthorizedError)
    assert error.message.startswith("site 'centre' refuses the token: ")
    assert says in error.message
    assert error.hint


def test_who_is_let_in_and_denied_is_told_apart():
    error = told(DENIED, scope="openid")
    assert isinstance(error, NotAuthorizedError)
    assert "knows this user, and does not allow what was asked" in error.message
    assert "does not allow compute.create" in error.message


@pytest.mark.parametrize("log", [REFUSED, UNKNOWN])
def test_a_site_that_is_not_there_is_unavailable_and_nobodys_fault(log):
    error = told(log)
    assert isinstance(error, SiteUnavailableError)
    assert error.message == "site 'centre' cannot be reached at ce:9619"


def test_a_certificate_that_is_not_trusted_names_the_setting():
    error = told("SSL: ... certificate verify failed\n" + REJECTED)
    assert isinstance(error, SiteUnavailableError)
    assert "ca_file" in error.hint


def test_a_broken_call_is_no_refusal():
    assert isinstance(told("", "the child process died"), SiteUnavailableError)


def test_the_rules_of_a_site_refuse_a_job():
    error = told("", "HTCondorException: Number of submitted jobs would exceed MAX_JOBS_PER_OWNER")
    assert isinstance(error, JobRejectedError)
    assert "MAX_JOBS_PER_OWNER" in error.message


def test_a_missing_client_says_what_to_install():
    error = told("", "ModuleNotFoundError: No module named 'htcondor2'")
    assert not error.transient
    assert "interlink-offload[htcondor]" in error.hint
