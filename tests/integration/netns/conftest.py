import pytest

from tests.support.netns import HUB_ADDRESS, Networks, require_namespaces
from tests.support.relaykit import Kit


@pytest.fixture
def networks(request):
    require_namespaces(request.config)
    with Networks() as networks:
        yield networks


class FarKit(Kit):
    """A relay in the network of the hub, and agents on a node of the site."""

    def __init__(self, folder, networks):
        super().__init__(folder)
        self.networks = networks
        self.host = HUB_ADDRESS
        self.inside = networks.inside("node1")

    def public(self, port):
        return self.networks.listener("hub", self.host, port)


@pytest.fixture
async def kit(tmp_path, networks):
    kit = FarKit(tmp_path, networks)
    await kit.start()
    yield kit
    for agent in kit.agents:
        print(f"--- log of {agent.folder.name}\n{agent.log()}")
    await kit.close()
