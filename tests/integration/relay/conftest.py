import pytest

from tests.support.gatewaykit import GatewayKit
from tests.support.relaykit import Kit


@pytest.fixture
async def kit(tmp_path):
    kit = Kit(tmp_path)
    await kit.start()
    yield kit
    for agent in kit.agents:
        print(f"--- log of {agent.folder.name}\n{agent.log()}")
    await kit.close()


@pytest.fixture
async def gateway(tmp_path):
    kit = GatewayKit(tmp_path)
    await kit.start()
    yield kit
    for agent in kit.agents:
        print(f"--- log of {agent.folder.name}\n{agent.log()}")
    await kit.close()
