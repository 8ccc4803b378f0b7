"""Who has no credential of this cluster can neither pose as part of it nor talk to it."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from distributed.security import Security

from dask_offload.tls import ClusterAuthority

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority():
    return ClusterAuthority("c7")


def contexts(listener, connector):
    """Return the contexts of both sides, made by Dask as for a cluster."""
    as_scheduler = Security(
        require_encryption=True,
        tls_ca_file=listener.ca,
        tls_scheduler_cert=listener.cert,
        tls_scheduler_key=listener.key,
    )
    as_worker = Security(
        require_encryption=True,
        tls_ca_file=connector.ca,
        tls_worker_cert=connector.cert,
        tls_worker_key=connector.key,
    )
    return (
        as_scheduler.get_listen_args("scheduler")["ssl_context"],
        as_worker.get_connection_args("worker")["ssl_context"],
    )


def shake_hands(server_context, client_context):
    """Do a TLS handshake in memory, and return what the listener received."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_side=False)
    waiting = [client.do_handshake, server.do_handshake]
    for _ in range(20):
        for step in list(waiting):
            try:
                step()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(step)
    assert not waiting
    client.write(b"hello")
    return server.read()


def test_members_of_a_cluster_trust_each_other(authority):
    pair = contexts(authority.issue("scheduler", HOUR), authority.issue("worker", HOUR))
    assert shake_hands(*pair) == b"hello"


def test_the_strict_checks_that_python_makes_from_3_13_on_are_passed(authority):
    pair = contexts(authority.issue("scheduler", HOUR), authority.issue("client", HOUR))
    for context in pair:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert shake_hands(*pair) == b"hello"


def test_a_worker_of_another_cluster_is_refused_though_it_has_the_same_name(authority):
    stranger = ClusterAuthority("c7").issue("worker", HOUR)
    listen, connect = contexts(authority.issue("scheduler", HOUR), stranger)
    # It does not mind whom it talks to: the listener has to.
    connect.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake_hands(listen, connect)


def test_a_scheduler_of_another_cluster_is_refused_by_workers(authority):
    stranger = ClusterAuthority("c8").issue("scheduler", HOUR)
    listen, connect = contexts(stranger, authority.issue("worker", HOUR))
    listen.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(listen, connect)


def test_a_worker_without_a_certificate_is_refused(authority):
    listen, _ = contexts(authority.issue("scheduler", HOUR), authority.issue("worker", HOUR))
    bare = ssl.create_default_context(cadata=authority.issue("client", HOUR).ca)
    bare.check_hostname = False
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(listen, bare)


def test_a_credential_that_has_ended_is_refused(authority):
    ended = authority.issue("worker", timedelta(seconds=-1))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake_hands(*contexts(authority.issue("scheduler", HOUR), ended))


def test_a_worker_cannot_sign_credentials_for_others(authority):
    cert = x509.load_pem_x509_certificate(authority.issue("worker", HOUR).cert.encode())
    constraints = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca


def test_each_credential_has_a_key_of_its_own_and_the_same_authority(authority):
    first, second = (authority.issue("worker", HOUR) for _ in range(2))
    assert first.key != second.key
    assert first.cert != second.cert
    assert first.ca == second.ca
    assert "PRIVATE KEY" not in first.ca + first.cert


def test_a_credential_is_good_for_its_lifetime_and_on_nodes_whose_clocks_are_behind(authority):
    before = datetime.now(UTC).replace(microsecond=0)
    cert = x509.load_pem_x509_certificate(authority.issue("worker", 3 * HOUR).cert.encode())
    after = datetime.now(UTC)
    assert before + 3 * HOUR <= cert.not_valid_after_utc <= after + 3 * HOUR
    assert cert.not_valid_before_utc <= before - 0.9 * HOUR


def test_a_certificate_says_for_people_what_it_is_for():
    credential = ClusterAuthority("a" * 80).issue("worker", HOUR)
    cert = x509.load_pem_x509_certificate(credential.cert.encode())
    assert cert.subject.rfc4514_string() == f"CN=worker,O={'a' * 64}"


def test_a_key_is_never_in_a_repr(authority):
    credential = authority.issue("worker", HOUR)
    shown = f"{credential!r} {credential} {[credential]} {authority!r} {vars(authority)!r}"
    assert "PRIVATE" not in shown
    assert not [line for line in credential.key.splitlines()[1:-1] if line in shown]
