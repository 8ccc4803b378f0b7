"""Load the configuration that the chart gives a hub, as its pod does, and say what is in it.

Usage: load_config.py FOLDER, which stands for /usr/local/etc/jupyterhub in the pod. Prints JSON:
`config` (with everything that is no JSON as its repr), and `unknown`: settings that no class has.
"""

import json
import sys
from pathlib import Path

from jupyterhub.app import JupyterHub
from traitlets.config import Config
from traitlets.utils.importstring import import_item


def main(folder):
    app = JupyterHub()
    app.load_config_file(f"{folder}/jupyterhub_config.py")
    config = app.config
    spawner = import_item(config.JupyterHub.spawner_class)
    classes = [JupyterHub, *JupyterHub().classes, spawner, *authenticators(config)]
    known = {}
    for one in classes:
        for base in one.mro():
            known.setdefault(base.__name__, set()).update(getattr(one, "class_trait_names", list)())
    unknown = [
        f"{section}.{name}"
        for section, settings in config.items()
        for name in settings
        if name not in known.get(section, ())
    ]
    plain = {section: dict(settings) for section, settings in config.items()}
    json.dump({"config": plain, "unknown": unknown}, sys.stdout, default=plain_or_repr)


def authenticators(config):
    """Return the class that people sign in by, from its short name or its path."""
    from importlib.metadata import entry_points

    name = config.JupyterHub.authenticator_class
    if not isinstance(name, str):
        return [name]
    points = entry_points(group="jupyterhub.authenticators")
    short = [point.load() for point in points if point.name == name.lower()]
    return short or [import_item(name)]


def plain_or_repr(value):
    return dict(value) if isinstance(value, Config) else repr(value)


main(Path(sys.argv[1]))
