"""A program that is killed at a chosen step; run it with an interpreter of its own.

    crashing.py submit|turn DIRECTORY JOBS STEP...

For each STEP a child works on the `local` site in DIRECTORY/STEP, and kills itself (SIGKILL) at its
STEP-th call to the system that touches files, locks or processes; so do, at theirs, the processes
it has forked. Prints for each how many such calls the child made, -1 if it was killed.
"""

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

from offload_sites.jobs import JobSpec, Resources
from offload_sites.local import LocalBackend, jobqueue

_STEPS = (
    "open fcntl.flock os.mkdir os.rename os.link os.remove os.rmdir os.chmod os.symlink os.truncate "
    "os.listdir os.scandir os.fork os.exec os.kill subprocess.Popen tempfile.mkdtemp shutil.rmtree "
    "shutil.copyfile"
)
RAN = 'echo "$PWD" >> "$RAN"'


def spec(directory):
    """Return a job that notes down that it ran."""
    return JobSpec(
        command=("sh", "-c", RAN),
        resources=Resources(),
        walltime=timedelta(minutes=1),
        environment={"RAN": str(directory / "ran")},
        inputs={"input": Path(__file__)},
    )


def backend(directory):
    """Return the site that everybody here means."""
    return LocalBackend("local", directory=directory / "site", max_jobs=4)


async def submit(directory, count):
    """Submit `count` jobs."""
    jobs = {f"job-{number}": {"secret": b"hush"} for number in range(count)}
    await backend(directory).submit(spec(directory), jobs)


def turn(directory):
    """Turn the queue in this process."""
    jobqueue.run(directory / "site")


class Countdown:
    """An audit hook that kills the process it is in at the given step."""

    def __init__(self, step):
        self.step = step
        self.count = 0
        self.armed = True

    def __call__(self, event, _arguments):
        if self.armed and event in _STEPS.split():
            self.count += 1
            if self.count == self.step:
                os.kill(os.getpid(), signal.SIGKILL)


def main(what, directory, count, steps):
    """Do `what` once for each of `steps`."""
    for step in steps:
        place = Path(directory, str(step))
        place.mkdir()
        if what == "turn":
            queue_without_starting(place, int(count))
        pid = os.fork()
        if pid == 0:
            me, countdown = os.getpid(), Countdown(step)
            sys.addaudithook(countdown)
            if what == "submit":
                asyncio.run(submit(place, int(count)))
            else:
                turn(place)
            countdown.armed = False
            if os.getpid() == me:
                print(countdown.count, flush=True)
            os._exit(0)
        if os.waitpid(pid, 0)[1] != 0:
            print(-1, flush=True)


def queue_without_starting(place, count):
    """Submit jobs, and leave it to others to start them."""
    pid = os.fork()
    if pid == 0:
        jobqueue.Snapshot.next = lambda _snapshot: []
        asyncio.run(submit(place, count))
        os._exit(0)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main(*sys.argv[1:4], [int(step) for step in sys.argv[4:]])
