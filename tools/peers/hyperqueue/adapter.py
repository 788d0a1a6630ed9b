"""Runs echo jobs on HyperQueue: server and workers in this process, each task a program of its own. It keeps nothing on disk."""

import itertools
import json
import os
import sys

import peer
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

RESULT = peer.FOLDER / "result"
# Of a shell alone, so that a task is one process: it writes down that it was executed, and gives its input back.
SCRIPT = 'echo "$1" >>"$2" && printf "%s\\n" "$3"'
# Each line is appended by one write: processes that live for one job need no files of their own.
DONE = peer.FOLDER / "done" / "tasks"


def add(job, message, stdout):
    command = ["sh", "-c", SCRIPT, "task", str(message["number"]), str(DONE), json.dumps(message)]
    job.program(command, stdout=stdout, stderr=None, cwd=str(peer.FOLDER))


def main():
    # Its server says a lot on stdout, which is the runner's.
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cluster = LocalCluster(str(peer.FOLDER / "hyperqueue"))
    for cores in peer.OPTIONS["workers"]:
        cluster.start_worker(WorkerConfig(cores=cores))
    client = cluster.client()

    def submit(messages):
        while chunk := list(itertools.islice(messages, peer.OPTIONS["tasks_a_job"])):
            job = Job(max_fails=None)
            for message in chunk:
                add(job, message, None)
            client.submit(job)

    def run(message):
        job = Job()
        add(job, message, str(RESULT))
        client.wait_for_jobs([client.submit(job)])
        return json.loads(RESULT.read_text())

    try:
        peer.serve(peer.versions("hyperqueue"), [], submit, run)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
