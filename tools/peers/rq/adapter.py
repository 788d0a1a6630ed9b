"""Runs echo jobs on RQ."""

import itertools
import sys

import jobs
import peer
from redis import Redis
from rq import Queue

CHUNK = 1000

queue = Queue(connection=Redis.from_url(peer.REDIS_URL))
pool = [sys.executable, "-m", "rq.cli", "worker-pool", "--url", peer.REDIS_URL, "--path", ".", "--logging-level", "ERROR", "--quiet"]
workers = [peer.worker(*pool, *peer.OPTIONS["pool"])]


def submit(messages):
    while chunk := list(itertools.islice(messages, CHUNK)):
        queue.enqueue_many([Queue.prepare_data(jobs.echo, args=(message,)) for message in chunk])


def run(message):
    return queue.enqueue(jobs.echo, message).latest_result(timeout=peer.RESULT_WITHIN_SECONDS).return_value


peer.serve(peer.versions("rq", "redis"), workers, submit, run)
