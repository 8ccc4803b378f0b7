"""What the hub's configuration says of the services that it starts."""

from interlink_spawner.hub_services import offload_service

FILES = {
    "catalog_file": "/etc/catalog.yaml",
    "ledger_url": "sqlite:////srv/ledger",
    "relay_url": "wss://hub.example.org/services/relay",
    "relay_key_file": "/etc/relay.key",
}


def test_the_service_reaches_the_sites_that_the_hub_reaches(monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/etc/kubeconfig")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HUB_SECRET", "not for others")
    environment = offload_service(**FILES)["environment"]
    assert environment["KUBECONFIG"] == "/etc/kubeconfig"
    assert environment["KUBERNETES_SERVICE_HOST"] == "10.0.0.1"
    assert "HUB_SECRET" not in environment
    monkeypatch.delenv("KUBECONFIG")
    assert "KUBECONFIG" not in offload_service(**FILES)["environment"]
