"""What the spawner keeps of its session."""

from interlink_spawner.spawner import InterLinkSpawner
from tests.support.sessionkit import new_session


async def test_news_of_a_session_that_is_over_does_not_touch_the_one_that_came_after():
    # It is seen to its end in the background, while its user has started another one.
    spawner = InterLinkSpawner(_mock=True)
    after = spawner._session = new_session(id="s2", key="s2-1")
    spawner._moved(new_session(id="s1", key="s1-1"))
    assert spawner._session is after
