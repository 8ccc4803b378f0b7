"""What people hear, and what is left, when parts of a real virtual node fail."""

import pytest

from tests.support.clusterkit import TIMEOUT_S, wait_workers
from tests.support.pluginproxy import PluginProxy
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.interlink, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def proxy(virtual_site):
    """Put a proxy between interLink and its plugin."""
    path = virtual_site.state / "proxy.sock"
    virtual_site.settings["PLUGIN_SOCKET"] = str(path)
    with PluginProxy(path, virtual_site.state / "slurm/jobs/plugin.sock") as proxy:
        virtual_site.down(only="interlink")
        virtual_site.up()
        yield proxy
    del virtual_site.settings["PLUGIN_SOCKET"]
    virtual_site.down(only="interlink")
    virtual_site.up()


@pytest.fixture
def plugin(proxy, virtual_site):
    proxy.seen.clear()
    yield proxy
    proxy.heals()
    virtual_site.up()
    eventually_sync(virtual_site.ready, within_s=180)


@pytest.fixture
def slurm(virtual_site):
    """Lend the site, and open its partition again."""
    yield virtual_site
    virtual_site.run("enter", "scontrol", "update", *OPEN, AS_ROOT="1")


OPEN, CLOSED, STOPPED = (
    ("PartitionName=batch", f"State={state}") for state in ("UP", "DRAIN", "DOWN")
)


def square(x):
    return x * x


square.__module__ = "__main__"  # so that it travels by value
SQUARES = [x * x for x in range(200)]


def says(cluster, text, within_s=60):
    def told():
        page = cluster._repr_html_()
        assert text in page, page
        return True

    eventually_sync(told, within_s=within_s)


def works(client, count, within_s=180):
    wait_workers(client, count, within_s=within_s)
    assert client.gather(client.map(square, range(200))) == SQUARES


# Workers


def test_workers_that_the_plugin_does_not_take_say_so_and_come_when_asked_again(hpc, plugin):
    plugin.fails("create")
    with hpc.start(2, per_job=1) as cluster, cluster.get_client() as client:
        says(cluster, "the plugin has a bad day")
        says(cluster, "failed in the same way")
        plugin.heals()
        cluster.retry()
        works(client, 2)
        assert len(hpc.site.queue()) == 2
    hpc.site.empty()


def test_a_batch_job_whose_creation_was_never_confirmed_does_not_stay(hpc, plugin):
    plugin.loses_answers("create")
    with hpc.start(1, per_job=1) as cluster, cluster.get_client() as client:
        eventually_sync(lambda: "create" in plugin.seen, within_s=60)
        plugin.heals()
        works(client, 1)
        eventually_sync(lambda: len(hpc.site.queue()) == 1, within_s=60)
    hpc.site.empty()


def test_while_the_plugin_tells_no_states_workers_come_work_and_are_replaced(hpc, plugin):
    with hpc.start(1, per_job=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(1, timeout=2 * TIMEOUT_S)
        (first,) = hpc.site.queue()
        eventually_sync(lambda: running(hpc.site) == 1, within_s=60)
        plugin.fails("status")
        cluster.scale(2)
        works(client, 2)
        hpc.site.slurm("scancel", first)
        eventually_sync(lambda: first not in hpc.site.queue(), within_s=60)
        # Nobody but its agent can have said so.
        eventually_sync(lambda: len(hpc.site.queue()) == 2, within_s=180)
        works(client, 2)
    hpc.site.empty()


def running(site):
    return sum(pod["status"]["phase"] == "Running" for pod in site.pods())


def test_batch_jobs_that_the_plugin_does_not_delete_end_themselves(hpc, plugin):
    with hpc.start(2, per_job=1) as cluster:
        cluster.wait_for_workers(2, timeout=2 * TIMEOUT_S)
        plugin.fails("delete")
        cluster.scale(1)
        eventually_sync(lambda: len(hpc.site.queue()) == 1, within_s=60)
    hpc.site.empty()


def test_a_plugin_that_hangs_is_waited_for_and_nothing_comes_twice(hpc, plugin):
    with hpc.start(1, per_job=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(1, timeout=2 * TIMEOUT_S)
        plugin.hangs("create", "status", "delete", "ping")
        cluster.scale(2)
        works(client, 1)
        says(cluster, "the virtual node", within_s=240)
        plugin.heals()
        works(client, 2, within_s=300)
        eventually_sync(lambda: len(hpc.site.queue()) == 2, within_s=60)
    hpc.site.empty(within_s=180)


def test_a_virtual_kubelet_that_dies_in_the_middle_of_a_creation_doubles_no_worker(hpc, plugin):
    plugin.hangs("create")
    with hpc.start(1, per_job=1) as cluster, cluster.get_client() as client:
        eventually_sync(lambda: "create" in plugin.seen, within_s=60)
        hpc.site.kill("virtual-kubelet")
        plugin.heals()
        eventually_sync(lambda: len(hpc.site.queue()) == 1, within_s=60)
        hpc.site.up()
        works(client, 1)
        eventually_sync(lambda: len(hpc.site.queue()) == 1, within_s=120)
    hpc.site.empty(within_s=120)


def test_what_a_virtual_kubelet_had_not_handed_over_when_it_died_is_not_handed_over_later(
    hpc, plugin
):
    hpc.site.kill("virtual-kubelet")
    with hpc.start(1, per_job=1) as cluster:
        eventually_sync(lambda: len(hpc.site.pods()) == 1, within_s=60)
        says(cluster, "the virtual node has not answered", within_s=120)
    hpc.site.up()
    hpc.site.empty(within_s=120)
    assert "create" not in plugin.seen


def test_a_virtual_kubelet_that_is_gone_is_said_to_be_silent(hpc):
    with hpc.start(1, per_job=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(1, timeout=2 * TIMEOUT_S)
        hpc.site.kill("virtual-kubelet")
        says(cluster, "the virtual node has not answered", within_s=120)
        works(client, 1)
        hpc.site.up()
        eventually_sync(lambda: "has not answered" not in cluster._repr_html_(), within_s=120)
    hpc.site.empty()


def test_workers_for_a_node_without_interlink_wait_and_come(hpc):
    hpc.site.kill("interlink")
    eventually_sync(lambda: not hpc.site.ready(), within_s=240)
    with hpc.start(1, per_job=1) as cluster, cluster.get_client() as client:
        says(cluster, "no contact to its site")
        assert not hpc.site.queue()
        hpc.site.up()
        works(client, 1, within_s=240)
        assert len(hpc.site.queue()) == 1
    hpc.site.empty()


def test_a_partition_that_is_drained_is_named_and_workers_come_when_it_is_open(hpc, slurm):
    with hpc.start(1, per_job=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(1, timeout=2 * TIMEOUT_S)
        slurm.run("enter", "scontrol", "update", *CLOSED, AS_ROOT="1")
        cluster.scale(2)
        says(cluster, "partition takes no jobs at present")
        works(client, 1)
        slurm.run("enter", "scontrol", "update", *OPEN, AS_ROOT="1")
        cluster.retry()
        works(client, 2)
    slurm.empty()


def test_in_a_partition_that_starts_nothing_jobs_wait_and_can_be_taken_back(hpc, slurm):
    slurm.run("enter", "scontrol", "update", *STOPPED, AS_ROOT="1")
    with hpc.start(2, per_job=1) as cluster, cluster.get_client() as client:
        eventually_sync(lambda: [*slurm.queue().values()] == ["PD", "PD"], within_s=60)
        says(cluster, "waits in the queue")
        cluster.scale(1)
        eventually_sync(lambda: len(slurm.queue()) == 1, within_s=60)
        slurm.run("enter", "scontrol", "update", *OPEN, AS_ROOT="1")
        works(client, 1)
    slurm.empty()


# Sessions


@pytest.fixture
def hub(virtual_hub):
    virtual_hub.site.up()
    return virtual_hub


def page_of(hub, user):
    return hub.sign_in(user).get(f"{hub.url}/hub/spawn-pending/{user}").text


def page_says(hub, user, text, within_s=120):
    def told():
        page = page_of(hub, user)
        assert text in page, page
        return True

    eventually_sync(told, within_s=within_s)


def start(hub, user):
    hub.add_user(user)
    answer = hub.spawn(user, profile="cores")
    # What fails within ten seconds fails at once.
    assert answer.status_code in (201, 202, 424), answer.text


def test_a_session_that_the_plugin_does_not_take_fails_in_a_sentence(hub, plugin):
    plugin.fails("create")
    start(hub, "dora")
    page_says(hub, "dora", "the plugin has a bad day")
    plugin.heals()
    start(hub, "dora")
    hub.wait_ready("dora", within_s=180)
    hub.stop("dora")
    hub.site.empty(within_s=120)


def test_a_session_whose_plugin_hangs_is_waited_for_and_starts_once(hub, plugin):
    plugin.hangs("create", "status", "delete", "ping")
    start(hub, "emil")
    page_says(hub, "emil", "handed to", within_s=60)
    plugin.heals()
    hub.wait_ready("emil", within_s=300)
    assert len(hub.site.queue()) == 1
    hub.stop("emil")
    hub.site.empty(within_s=120)


def test_a_session_whose_batch_job_is_not_deleted_is_stopped_all_the_same(hub, plugin):
    start(hub, "fay")
    hub.wait_ready("fay", within_s=180)
    plugin.fails("delete")
    hub.stop("fay")
    hub.site.empty(within_s=120)


def test_a_session_outlives_a_virtual_kubelet_that_is_killed(hub):
    start(hub, "gil")
    hub.wait_ready("gil", within_s=180)
    hub.site.kill("virtual-kubelet")
    eventually_sync(lambda: not hub.site.ready(), within_s=120)
    assert hub.lab("GET", "gil", "api/status").status_code == 200
    hub.site.up()
    hub.stop("gil")
    hub.site.empty(within_s=120)


def test_a_session_for_a_virtual_kubelet_that_was_killed_says_which_part_is_silent(hub):
    hub.site.kill("virtual-kubelet")
    start(hub, "hal")
    page_says(hub, "hal", "virtual node has not answered")
    hub.site.up()
    hub.wait_ready("hal", within_s=180)
    hub.stop("hal")
    hub.site.empty(within_s=120)


def test_a_session_in_a_drained_partition_is_refused_in_a_sentence(hub, slurm):
    slurm.run("enter", "scontrol", "update", *CLOSED, AS_ROOT="1")
    start(hub, "ida")
    page_says(hub, "ida", "partition takes no jobs at present")
    slurm.empty()


def test_a_session_that_waits_for_a_stopped_partition_is_cancelled(hub, slurm):
    slurm.run("enter", "scontrol", "update", *STOPPED, AS_ROOT="1")
    start(hub, "jon")
    page_says(hub, "jon", "waits in the queue")
    hub.stop("jon")
    slurm.empty(within_s=120)
