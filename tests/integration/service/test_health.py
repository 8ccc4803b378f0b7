import urllib.request


def test_a_probe_without_a_token_hears_that_the_service_serves_and_nothing_else(kit):
    kit.hub.down, asked = True, kit.hub.calls
    with urllib.request.urlopen(f"{kit.url}/health", timeout=10) as answer:
        assert (answer.status, answer.read()) == (200, b"ok\n")
    assert kit.hub.calls == asked
