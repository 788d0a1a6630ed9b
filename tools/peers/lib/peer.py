"""What the adapters in Python share: the lines that the runner speaks, the record of executions, and workers as children.

README.md beside this folder tells what the lines mean.
"""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

OPTIONS = json.loads(os.environ["PEER_OPTIONS"])
REDIS_URL = os.environ["PEER_REDIS_URL"]
FOLDER = Path(os.environ["PEER_DIR"])
STOP_WITHIN_SECONDS = 10
RESULT_WITHIN_SECONDS = 30

_record = (0, -1)


def job(number):
    """The input of a job: the same as Busbar's own."""
    return {"number": number, "text": "the quick brown fox jumps over the lazy dog"}


def done(number):
    """Writes down that a job was executed, in a file of this very process: children inherit none that is not theirs."""
    global _record
    process = os.getpid()
    if _record[0] != process:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        _record = (process, os.open(FOLDER / "done" / str(process), flags, 0o600))
    os.write(_record[1], b"%d\n" % number)


def versions(*packages):
    """What was measured, in words."""
    python = "CPython " + ".".join(map(str, sys.version_info[:3]))
    return ", ".join([f"{package} {version(package)}" for package in packages] + [python])


def worker(*command):
    """Starts workers; what they say goes where this program's own words go."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr)


def timed(first, jobs, run):
    """Milliseconds of each of some jobs, one after the other; `run` must hand back what the job returned."""
    milliseconds = []
    for number in range(first, first + jobs):
        message = job(number)
        started = time.perf_counter()
        answer = run(message)
        milliseconds.append((time.perf_counter() - started) * 1e3)
        if answer != message:
            raise RuntimeError(f"job {number} returned {answer!r}")
    return milliseconds


def serve(says, workers, submit, run):
    """Answers the runner until its end of the pipe is closed, and ends the workers then."""
    try:
        answer({"ready": says})
        for line in sys.stdin:
            ask = json.loads(line)
            first, jobs = ask["first"], ask["jobs"]
            if ask["do"] == "submit":
                submit(job(number) for number in range(first, first + jobs))
                answer({"submitted": jobs})
            else:
                answer({"milliseconds": timed(first, jobs, run)})
    finally:
        stop(workers)


def answer(message):
    print(json.dumps(message), flush=True)


def stop(workers):
    for process in workers:
        process.send_signal(signal.SIGTERM)
    for process in workers:
        try:
            process.wait(STOP_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
