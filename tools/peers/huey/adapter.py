"""Runs echo jobs on Huey."""

import sys

import peer
from jobs import echo

workers = [peer.worker(sys.executable, "-m", "huey.bin.huey_consumer", "jobs.huey", "--quiet", *peer.OPTIONS["consumer"])]


def submit(messages):
    for message in messages:
        echo(message)


def run(message):
    return echo(message).get(blocking=True, max_delay=peer.OPTIONS["result_max_delay"], timeout=peer.RESULT_WITHIN_SECONDS)


peer.serve(peer.versions("huey", "redis"), workers, submit, run)
