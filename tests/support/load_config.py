"""Load the configuration of a hub, as the hub does, and say what is in it.

Usage: load_config.py FILE... Prints a line of JSON for each: `config` (with everything that is no
JSON as its repr), `unknown`: settings that no class has, and `refused`: what a class says to the
value of a setting.
"""

import json
import sys

from jupyterhub.app import JupyterHub
from traitlets import TraitError
from traitlets.config import Config
from traitlets.utils.importstring import import_item

from interlink_spawner.broker import TokenBroker


def main(file):
    app = JupyterHub()
    app.load_config_file(file)
    config = app.config
    spawner = import_item(config.JupyterHub.get("spawner_class", "jupyterhub.spawner.Spawner"))
    classes = [JupyterHub, *JupyterHub().classes, spawner, TokenBroker, *authenticators(config)]
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
    said = {"config": plain, "unknown": unknown, "refused": list(refused(classes, config))}
    print(json.dumps(said, default=plain_or_repr))


def refused(classes, config):
    """Yield what the classes that are configured say to their values."""
    for one in dict.fromkeys(classes):
        for name in one.class_trait_names(config=True):
            for section in (base.__name__ for base in one.mro()):
                value = config.get(section, {}).get(name)
                if value is not None and not hasattr(value, "get_value"):
                    try:
                        one.class_traits()[name]._validate(one.__new__(one), value)
                    except TraitError as error:
                        yield f"{section}.{name}: {error}"


def authenticators(config):
    """Return the class that people sign in by, from its short name or its path."""
    from importlib.metadata import entry_points

    name = config.JupyterHub.get("authenticator_class", "pam")
    if not isinstance(name, str):
        return [name]
    points = entry_points(group="jupyterhub.authenticators")
    short = [point.load() for point in points if point.name == name.lower()]
    return short or [import_item(name)]


def plain_or_repr(value):
    return dict(value) if isinstance(value, Config) else repr(value)


for name in sys.argv[1:]:
    main(name)
