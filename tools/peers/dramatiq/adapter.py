"""Runs echo jobs on Dramatiq."""

import sys

import peer
from jobs import echo, note

workers = [peer.worker(sys.executable, "-m", "dramatiq", "jobs", *peer.OPTIONS["worker"])]


def submit(messages):
    for message in messages:
        note.send(message)


def run(message):
    return echo.send(message).get_result(block=True, timeout=peer.RESULT_WITHIN_SECONDS * 1000)


peer.serve(peer.versions("dramatiq", "redis"), workers, submit, run)
