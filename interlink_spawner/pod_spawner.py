"""KubeSpawner, for a hub that may have no Kubernetes at all."""

from __future__ import annotations

from typing import Any

from kubespawner import KubeSpawner
from traitlets import default

from interlink_spawner import kube

__all__ = ["PodSpawner"]


class PodSpawner(KubeSpawner):
    """KubeSpawner that connects to Kubernetes when it is first needed, with volumes of their users."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._api: Any = None
        with kube.without_kubernetes():
            super().__init__(*args, **kwargs)

    @property
    def api(self) -> Any:
        """KubeSpawner's client of the Kubernetes API; connects when it is first used."""
        if self._api is None:
            self._api = kube.connect(
                self.k8s_api_host, self.k8s_api_ssl_ca_cert, self.k8s_api_verify_ssl
            )
        return self._api

    @api.setter
    def api(self, client: Any) -> None:
        self._api = client

    @default("delete_pvc")
    def _default_delete_pvc(self) -> bool:
        # A volume is its user's: it stays when a server, or a named one, is deleted.
        return False

    @default("pvc_name_template")
    def _default_pvc_name_template(self) -> str:
        return "claim-{username}"

    async def _start_reflector(self, *args: Any, **kwargs: Any) -> Any:
        # Reflectors make clients of their own, from a configuration that connecting loads.
        assert self.api is not None  # noqa: S101
        reflector = await super()._start_reflector(*args, **kwargs)
        kube.keep_watching(reflector, self.log)
        return reflector
