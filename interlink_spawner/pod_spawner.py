"""KubeSpawner, for a hub that may have no Kubernetes at all, and whose pods say why they do not start."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jupyterhub.utils import make_ssl_context
from kubespawner import KubeSpawner
from traitlets import default

from interlink_spawner import kube
from interlink_spawner.probe import answers
from interlink_spawner.spawn_failed import SpawnFailed, uncount
from offload_sites.catalog import KubernetesSite
from offload_sites.resolve import Resolved

__all__ = ["PodSpawner"]

_ADDED_TO = (
    *("environment", "node_selector", "extra_pod_config"),
    *("extra_resource_limits", "extra_resource_guarantees", "extra_labels"),
)
_LISTS = ("tolerations", "image_pull_secrets")
_PROBE_S = 0.5
_FORM_S = 1.2


class PodSpawner(KubeSpawner):
    """KubeSpawner that connects to Kubernetes when it is first needed, with volumes of their users."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._api: Any = None
        #: Whether its server is a pod, for KubeSpawner to look after.
        self.is_pod = False
        self._watch: kube.PodWatch | None = None  # while a pod of the catalog is being started
        self._pod_start: timedelta | None = None
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

    # --- its start -------------------------------------------------------------------------------

    @property
    def pod_start(self) -> timedelta:
        """How long a pod may take on its node, as the administrator has set `start_timeout`."""
        if self._pod_start is None:
            self._pod_start = timedelta(seconds=self.start_timeout)
        return self._pod_start

    async def start_as_kubespawner(self) -> str:
        """Start KubeSpawner's own pod, whatever it is set up for; return its URL."""
        self.is_pod = True
        return str(await super()._start())

    async def start_pod(
        self, resolved: Resolved, site: KubernetesSite, service_url: str, asked: datetime
    ) -> str:
        """Let KubeSpawner start its pod with what was asked for; return its URL.

        Parameters
        ----------
        resolved : Resolved
            The user's choice.
        site : KubernetesSite
            Where.
        service_url : str
            The offload service as pods reach it; empty if there is none.
        asked : datetime
            When it was asked for; it may have waited at another site since. Aware UTC.

        Raises
        ------
        SpawnFailed
            The pod never will run, or does not within its time, or no server answers in it: why, as
            far as Kubernetes says so.
        """
        self._set_up(resolved, site, service_url)
        watch = self._watch = kube.PodWatch(asked, resolved.queue_budget, self.pod_start)
        left = asked + watch.most - datetime.now(UTC)
        try:
            # The API may hang, too, and then nobody asks whether the pod runs.
            async with asyncio.timeout(left.total_seconds()):
                url = await self.start_as_kubespawner()
            return await self._once_it_answers(url)
        except kube.PodFailed as error:
            raise await self._pod_failed(asked, site.title, str(error), error.within) from error
        except TimeoutError as error:
            pod = self._pod_seen()
            why, _ = kube.why_not(pod)
            words = why or str(error)
            raise await self._pod_failed(asked, site.title, words, watch.limit(pod)) from error
        except kube.API_ERRORS as error:  # after TimeoutError, which is one of the system's as well
            self.log.exception("%s: the pod could not be started", self._log_name)
            raise await self._pod_failed(asked, site.title, kube.api_words(error)) from error
        finally:
            self._watch = None

    async def _once_it_answers(self, url: str) -> str:
        """Return the URL of a pod that runs once there is an answer.

        The hub waits for one next, and would give up without saying why.
        """
        within = timedelta(seconds=self.http_timeout)
        until = datetime.now(UTC) + within
        while not await answers(f"{url}{self.server.base_url}api", self._internal_tls):
            why, final = kube.why_no_answer(self._pod_seen())
            if final:
                raise kube.PodFailed(why)
            if datetime.now(UTC) > until:
                raise kube.PodFailed(why, within)
            await asyncio.sleep(_PROBE_S)
        return url

    @property
    def _internal_tls(self) -> ssl.SSLContext | None:
        told = self.user.settings
        key, cert = told.get("internal_ssl_key"), told.get("internal_ssl_cert")
        context: ssl.SSLContext | None = make_ssl_context(
            key, cert, cafile=told.get("internal_ssl_ca")
        )
        return context

    def _set_up(self, resolved: Resolved, site: KubernetesSite, service_url: str) -> None:
        present = {name: getattr(self, name) for name in _ADDED_TO}
        for name in _LISTS:
            present[name] = list(self._sorted_dict_values(getattr(self, name)) or [])
        for name, value in kube.pod_settings(resolved, site, present, service_url).items():
            setattr(self, name, value)

    def _pod_seen(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.pod_reflector.pods.get(
            f"{self.namespace}/{self.pod_name}"
        )
        return found

    async def _pod_failed(
        self, asked: datetime, site: str, why: str, within: timedelta | None = None
    ) -> SpawnFailed:
        await self.past_form(asked)
        uncount(self.handler)
        return SpawnFailed(424, kube.failure_words(site, why, within))

    @staticmethod
    async def past_form(asked: datetime) -> None:
        """Return once the hub shows why a start failed, and not the form again, as in its first second."""
        await asyncio.sleep(_FORM_S - (datetime.now(UTC) - asked).total_seconds())

    def is_pod_running(self, pod: Any) -> bool:
        """Tell whether a pod runs; raise if it never will, or takes longer than it may to."""
        # KubeSpawner fails, and leaves the pod behind, where one that runs has no address yet.
        if pod and pod["status"].get("podIP") and super().is_pod_running(pod):
            return True
        if self._watch is not None:
            self._watch.check(pod, datetime.now(UTC))
        return False
