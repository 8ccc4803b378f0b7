"""What we rely on in the chart jupyterhub 4.x (zero-to-jupyterhub): the values we set, and its labels.

Each path is a value as the chart understands it, with the chart's default (values.yaml of 4.4.0 and of
its main branch in July 2026). `None` stands for an empty default. With Z2JH_CHART a test holds this
list to the chart; without it, it is what our files are held to.
"""

HUB_CONFIG = "hub.config"

DEFAULTS = {
    "cull.enabled": True,
    "hub.allowNamedServers": False,
    "hub.concurrentSpawnLimit": 64,
    "hub.config": {"JupyterHub": {"admin_access": True, "authenticator_class": "dummy"}},
    "hub.consecutiveFailureLimit": 5,
    "hub.existingSecret": None,
    "hub.extraEnv": {},
    "hub.extraVolumeMounts": [],
    "hub.extraVolumes": [],
    "hub.image.name": "quay.io/jupyterhub/k8s-hub",
    "hub.image.tag": "set-by-chartpress",
    "hub.loadRoles": {},
    "hub.namedServerLimitPerUser": None,
    "hub.networkPolicy.egress": [],
    "hub.resources": {},
    "hub.services": {},
    "ingress.annotations": {},
    "ingress.enabled": False,
    "ingress.hosts": [],
    "ingress.tls": [],
    "prePuller.continuous.enabled": True,
    "prePuller.hook.enabled": True,
    "prePuller.pullProfileListImages": True,
    "proxy.chp.networkPolicy.egress": [],
    "proxy.chp.resources": {},
    "proxy.service.type": "LoadBalancer",
    "scheduling.userScheduler.enabled": True,
    "singleuser.cloudMetadata.blockWithIptables": True,
    "singleuser.networkPolicy.egress": [],
    "singleuser.networkPolicy.ingress": [],
    "singleuser.startTimeout": 300,
    "singleuser.storage.dynamic.pvcNameTemplate": None,
    "singleuser.storage.dynamic.storageClass": None,
    "singleuser.storage.extraVolumeMounts": None,
    "singleuser.storage.extraVolumes": None,
}

#: Labels by which the chart's own policies know a pod; app and release are those of our release.
COMPONENTS = ("hub", "proxy", "singleuser-server")


def pod_labels(component):
    """Return the labels of a pod of one component, as the chart (or the hub) gives them."""
    labels = {
        "app": "jupyterhub",
        "release": "jupyterhub",
        "component": component,
        "app.kubernetes.io/name": "jupyterhub",
        "app.kubernetes.io/instance": "jupyterhub",
        "app.kubernetes.io/component": component,
    }
    access = {
        "hub": ("proxy-api", "proxy-http", "singleuser"),
        "proxy": ("hub", "singleuser"),
        "singleuser-server": ("hub",),
    }[component]
    return labels | {f"hub.jupyter.org/network-access-{one}": "true" for one in access}


def value_paths(values, prefix=""):
    """Return the paths of `DEFAULTS` that `values` set, and of all else that they set."""
    found = set()
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in DEFAULTS or not isinstance(value, dict):
            found.add(path)
        else:
            found |= value_paths(value, f"{path}.")
    return found


def at(values, path):
    """Return the value at a path."""
    for key in path.split("."):
        values = values[key]
    return values
