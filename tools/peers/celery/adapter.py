"""Runs echo jobs on Celery."""

import sys

import peer
from jobs import app, echo

workers = [peer.worker(sys.executable, "-m", "celery", "--app", "jobs", "worker", "--loglevel", "ERROR", *peer.OPTIONS["worker"])]


def submit(messages):
    # One connection for all of them; Celery has no call that sends many at once.
    with app.producer_or_acquire() as producer:
        for message in messages:
            echo.apply_async((message,), producer=producer)


def run(message):
    return echo.apply_async((message,), ignore_result=False).get(timeout=peer.RESULT_WITHIN_SECONDS)


peer.serve(peer.versions("celery", "kombu", "redis"), workers, submit, run)
