"""Hold Kubernetes objects to the types of the client library, which is made from the OpenAPI of the API.

The library's own deserializer passes over fields that it does not know; a misspelt field is what a
template gets wrong most often, so here it is a problem.
"""

import re

from kubernetes_asyncio.client import Configuration, models

_MODELS = {
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "PersistentVolumeClaim"): "V1PersistentVolumeClaim",
    ("v1", "Pod"): "V1Pod",
    ("v1", "Secret"): "V1Secret",
    ("v1", "Service"): "V1Service",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("apps/v1", "DaemonSet"): "V1DaemonSet",
    ("apps/v1", "Deployment"): "V1Deployment",
    ("apps/v1", "StatefulSet"): "V1StatefulSet",
    ("batch/v1", "Job"): "V1Job",
    ("networking.k8s.io/v1", "Ingress"): "V1Ingress",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
    ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): "V1ClusterRole",
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): "V1ClusterRoleBinding",
    ("rbac.authorization.k8s.io/v1", "Role"): "V1Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "V1RoleBinding",
}
_PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def type_problems(kubernetes_object):
    """Return what is wrong with an object: unknown fields, missing ones, values of another type."""
    kind = (kubernetes_object.get("apiVersion"), kubernetes_object.get("kind"))
    if kind not in _MODELS:
        return [f"no type is known for {kind}"]
    return list(_problems(kubernetes_object, _MODELS[kind], kind[1]))


def _problems(value, type_name, path):
    if inner := re.fullmatch(r"list\[(.+)\]", type_name):
        if not isinstance(value, list):
            yield f"{path}: expected a list, got {value!r}"
            return
        for number, one in enumerate(value):
            yield from _problems(one, inner[1], f"{path}[{number}]")
    elif inner := re.fullmatch(r"dict\((\w+), (.+)\)", type_name):
        if not isinstance(value, dict):
            yield f"{path}: expected a mapping, got {value!r}"
            return
        for name, one in value.items():
            yield from _problems(one, inner[2], f"{path}.{name}")
    elif hasattr(models, type_name):
        yield from _model_problems(value, getattr(models, type_name), path)
    elif type_name in _PLAIN:
        wrong_bool = isinstance(value, bool) and type_name != "bool"
        if wrong_bool or not isinstance(value, _PLAIN[type_name]):
            yield f"{path}: expected {type_name}, got {value!r}"


def _model_problems(value, model, path):
    if not isinstance(value, dict):
        yield f"{path}: expected a mapping, got {value!r}"
        return
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    for name, one in value.items():
        if name not in names:
            yield f"{path}: unknown field {name!r}"
        elif one is None:
            yield f"{path}.{name}: empty"
        else:
            yield from _problems(one, model.openapi_types[names[name]], f"{path}.{name}")
    given = {names[name]: one for name, one in value.items() if name in names}
    settings = Configuration()
    settings.client_side_validation = True
    try:  # the model knows which fields have to be there
        model(**given, local_vars_configuration=settings)
    except ValueError as error:
        yield f"{path}: {error}"
