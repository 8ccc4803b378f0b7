"""The files that a hub's pod finds below /usr/local/etc/jupyterhub, laid out in a folder of a test."""

import base64
import shutil
from pathlib import Path

POD_FOLDER = "/usr/local/etc/jupyterhub"


def lay_out(chart, folder, config_parts):
    """Write the rendered configuration of the hub below `folder`, and return it.

    Parameters
    ----------
    chart : Rendered
        The chart of the hub.
    folder : Path
        Stands for `POD_FOLDER`, whose name is replaced in all files.
    config_parts : Path
        Folder of the image that becomes `jupyterhub_config.d`.
    """
    for name, text in chart["ConfigMap", "hub"]["data"].items():
        # No libcurl is needed to read a configuration.
        plain = text.replace(POD_FOLDER, str(folder)).replace(
            'AsyncHTTPClient.configure("tornado.curl_httpclient.CurlAsyncHTTPClient")', ""
        )
        _write(folder / "config" / name, plain.encode())
        if name.endswith(".py"):
            _write(folder / name, plain.encode())
    secret = chart["Secret", "hub"]
    for name, encoded in secret["data"].items():
        _write(folder / "secret" / name, base64.b64decode(encoded))
    for name, text in secret.get("stringData", {}).items():
        _write(folder / "secret" / name, text.encode())
    shutil.copytree(config_parts, folder / "jupyterhub_config.d", dirs_exist_ok=True)
    return folder


def _write(path: Path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def environment():
    """Return the variables of the hub's pod that its configuration reads."""
    return {
        "POD_NAMESPACE": "highrate",
        "HELM_RELEASE_NAME": "jupyterhub",
        "PROXY_API_SERVICE_PORT": "8001",
        "HUB_SERVICE_PORT": "8081",
        "CONFIGPROXY_AUTH_TOKEN": "none",
    }
