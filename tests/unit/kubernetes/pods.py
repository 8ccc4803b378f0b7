"""Pods as an API server tells of them, for tests of what they mean."""

from datetime import timedelta

WALLTIME = timedelta(hours=1)


def pod(phase, *, node="node7", state=None, notes=None, **status):
    """Return a pod; `state` is that of its container."""
    if state is not None:
        status["containerStatuses"] = [{"name": "job", "state": state}]
    return {
        "metadata": {
            "name": "site-k-1",
            "uid": "u1",
            "creationTimestamp": "2030-01-01T10:00:00Z",
            "annotations": notes or {},
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, **status},
    }


def terminated(code, *, ran_s=3600, **more):
    minutes, seconds = divmod(ran_s, 60)
    return {
        "terminated": {
            "exitCode": code,
            "startedAt": "2030-01-01T10:00:00Z",
            "finishedAt": f"2030-01-01T{10 + minutes // 60:02}:{minutes % 60:02}:{seconds:02}Z",
            **more,
        }
    }
