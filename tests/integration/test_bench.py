"""The measurements run, and measure what they say; how fast anything is, is not tested."""

import subprocess
import sys

from bench import gateway, service, start, submit, transport
from bench.report import _GATEWAY, _GATEWAY_CPU, _RELAY, _TRANSPORT


def test_all_parts_can_be_loaded():
    subprocess.run([sys.executable, "-m", "bench", "--help"], check=True, capture_output=True)


def test_the_same_work_is_measured_in_each_way(capsys):
    found = transport.measure(2, repeat=1, tasks=50, gather_mib=8, idle_s=0.2)
    assert list(found) == ["tcp", "tls", "relay"]
    names = {name for name, _ in _TRANSPORT}
    assert set(found["tcp"][0]) == set(found["tls"][0]) == names
    assert set(found["relay"][0]) == names | {name for name, _ in _RELAY}
    for name in ("tasks_per_s", "paced_tasks_per_s", "gather_mib_per_s", "register_s"):
        assert all(rounds[0][name] > 0 for rounds in found.values())
    assert "2 workers, round 1, relay" in capsys.readouterr().out


def test_the_same_requests_are_measured_through_the_gateway_and_without_it():
    found = gateway.measure(repeat=1, requests=160, transfer_mib=2)
    assert list(found) == list(gateway.KINDS)
    names = {name for name, _ in _GATEWAY}
    assert set(found["direct"][0]) == names
    assert set(found["gateway"][0]) > names | {name for name, _ in _GATEWAY_CPU}
    assert all(
        value > 0 for rounds in found.values() for name, value in rounds[0].items() if name in names
    )
    idle = gateway.measure_idle(3, 0.2)
    assert set(idle) == {"relay_mb_per_session", "idle_relay_percent_of_core"}


def test_each_way_to_start_workers_is_measured():
    found = start.measure(2, repeat=1)
    assert list(found) == list(start.WAYS)
    assert all(rounds[0]["cpu_s_per_worker"] > 0.01 for rounds in found.values())


def test_what_the_service_costs_is_measured():
    found = service.measure(2, repeat=1, idle_s=1)
    assert list(found) == list(service.FORMS)
    assert all(rounds[0]["scaled_s"] > 0 for rounds in found.values())
    assert {"service_percent", "service_mib"} <= set(found["service"][0]) - set(found["direct"][0])
    assert service.beats(10, 3)["cpu_ms_per_beat"] >= 0


def test_a_submission_is_measured():
    [found] = submit.measure(6, 2, repeat=1)
    assert found["jobs"] == 3
    assert 0 < found["submit_s"] <= found["all_running_s"]
