"""What a user says of a relay is checked in the notebook, each mistake in a sentence."""

import pytest

from dask_offload.relay_option import check_relay, relay_access
from offload_sites.errors import OffloadError

GOOD = {"url": "wss://relay.example.org/r", "dial": "10.1.2.3:8301", "key_file": "/etc/relay.key"}


def test_settings_and_arguments_mean_the_same():
    setting = {
        "url": GOOD["url"],
        "dial": GOOD["dial"],
        "key-file": "/etc/relay.key",
        "ca-file": None,
    }
    assert check_relay(setting) == check_relay(GOOD) == GOOD


def test_a_relative_path_is_that_of_the_notebook(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    relay = check_relay({**GOOD, "key_file": "relay.key", "ca_file": "~/ca.pem"})
    assert relay["key_file"] == str(tmp_path / "relay.key")
    assert relay["ca_file"] == str(tmp_path / "home" / "ca.pem")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dial": None}, "the relay lacks dial"),
        ({"dial": "", "key_file": ""}, "the relay lacks dial, key_file"),
        ({"token": "x"}, "unknown key 'token'"),
        ({"url": "https://relay.example.org"}, "the URL of the relay is 'https://"),
        ({"url": "wss://"}, "the URL of the relay is 'wss://'"),
        ({"url": "ws://host:port"}, "the URL of the relay is 'ws://host:port'"),
        ({"dial": "8301"}, "the dial port of the relay is '8301'"),
        ({"dial": "10.1.2.3:0"}, "the dial port of the relay is '10.1.2.3:0'"),
        ({"dial": "10.1.2.3:70000"}, "the dial port of the relay is '10.1.2.3:70000'"),
    ],
)
def test_each_mistake_is_a_sentence_with_what_to_do(changes, said):
    with pytest.raises(OffloadError) as refused:
        check_relay({**GOOD, **changes})
    assert said in refused.value.message
    assert refused.value.hint


def test_a_relay_that_is_no_mapping_is_refused():
    with pytest.raises(OffloadError, match="not a mapping"):
        check_relay("wss://relay.example.org")


def test_files_that_are_missing_or_hold_no_key_are_named(tmp_path):
    key = tmp_path / "relay.key"
    relay = {**GOOD, "key_file": str(key)}
    with pytest.raises(OffloadError, match=f"cannot read {key}"):
        relay_access(relay)
    key.write_bytes(b"short")
    with pytest.raises(OffloadError, match="holds 5 bytes; the key of a relay has at least 32"):
        relay_access(relay)
    key.write_bytes(b"k" * 32)
    with pytest.raises(OffloadError, match="cannot read /no/ca.pem"):
        relay_access({**relay, "ca_file": "/no/ca.pem"})
    assert relay_access(relay).key == b"k" * 32
