"""What the client's log says of a failure. The logs were recorded with htcondor2 25.14.1."""

from pathlib import Path

import pytest

from offload_sites.errors import (
    JobLimitError,
    JobRejectedError,
    NotAuthorizedError,
    SiteUnavailableError,
)
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
RECORDED = Path(__file__).parents[2] / "data" / "htcondor"


def recorded(file):
    """Return name to (text of the exception, the client's log) of what `tests/data` has of it."""
    entries = (RECORDED / file).read_text().removeprefix("=== ").split("\n=== ")
    return {name: rest.split("\n", 1) for name, rest in (one.split("\n", 1) for one in entries)}


TOKENS = recorded("refused.log")
REJECTED = TOKENS["user not mapped"][1]
DENIED = TOKENS["login scopes only"][1]
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


@pytest.mark.parametrize("name", TOKENS)
def test_what_a_server_has_refused_is_a_refusal(name):
    said, log = TOKENS[name]
    assert isinstance(told(log, said), NotAuthorizedError)


@pytest.mark.parametrize(("name", "recording"), recorded("cut.log").items())
def test_a_line_that_is_cut_anywhere_is_no_refusal(name, recording):
    said, log = recording
    error = told(log, said)
    assert isinstance(error, SiteUnavailableError), name
    assert error.message == "the connection to site 'centre' at ce:9619 broke off"


def test_a_site_that_takes_no_such_tokens_names_the_setting():
    error = told(TOKENS["bearer tokens not taken"][1])
    assert isinstance(error, NotAuthorizedError)
    assert "authentication" in error.hint


@pytest.mark.parametrize(
    ("name", "says", "todo"),
    [
        ("certificate of another authority", "not trusted here", "ca_file"),
        ("certificate for another name", "not for ce:9619", "as its certificate does"),
    ],
)
def test_a_certificate_that_does_not_fit_is_no_refusal_and_says_what_to_change(name, says, todo):
    error = told(recorded("certificates.log")[name][1])
    assert isinstance(error, SiteUnavailableError)
    assert says in error.message
    assert todo in error.hint


def test_a_broken_call_is_no_refusal():
    assert isinstance(told("", "the child process died"), SiteUnavailableError)


# Recorded with htcondor2 25.14.1 against HTCondor 23.9.6 and 25.14.1.
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("at most 4 cores a job here, see the rules", "at most 4 cores a job here"),
        ("Submit requirement Small not met.\n", "Submit requirement Small not met."),
    ],
)
def test_the_rules_of_a_site_refuse_a_job_in_its_own_words(said, words):
    error = told("", f"HTCondorException: Unable to commit transaction, SCHEDD:2:{said}")
    assert type(error) is JobRejectedError
    assert error.message.startswith("site 'centre' refused the job: ")
    assert words in error.message


@pytest.mark.parametrize(
    "said",
    [
        "expected next ProcId to be 6, but Schedd says -3",
        "expected next ProcId to be 3, but Schedd says -4",
        "Failed to create new cluster.SCHEDD:22:MAX_JOBS_SUBMITTED exceeded. Current=13, Limit=1",
    ],
)
def test_too_many_jobs_at_a_time_are_a_limit_and_no_broken_connection(said):
    error = told("", f"HTCondorException: {said}")
    assert isinstance(error, JobLimitError)
    assert "no more jobs" in error.message
    assert "fewer workers" in error.hint


def test_a_missing_client_says_what_to_install():
    error = told("", "ModuleNotFoundError: No module named 'htcondor2'")
    assert not error.transient
    assert "interlink-offload[htcondor]" in error.hint
