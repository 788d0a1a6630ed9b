"""Runs echo jobs on Ray: a cluster in this machine, started and ended with this program. It keeps nothing on disk."""

import itertools
import logging
import os

import peer

# It would tell its makers of every start.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray  # noqa: E402
from jobs import Echo, echo, echo_many  # noqa: E402


def tasks(messages):
    return [echo.remote(message) for message in messages]


def chunks(messages):
    refs = []
    while chunk := list(itertools.islice(messages, peer.OPTIONS["chunk"])):
        refs.append(echo_many.remote(chunk))
    return refs


def main():
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(peer.FOLDER / "ray"),
    )
    try:
        actors = itertools.cycle([Echo.remote() for _ in range(peer.OPTIONS.get("actors", 0))])
        # What nobody holds a reference to may be forgotten.
        held = []

        def submit(messages):
            if "actors" in peer.OPTIONS:
                held[:] = [next(actors).echo.remote(message) for message in messages]
            else:
                held[:] = chunks(messages) if "chunk" in peer.OPTIONS else tasks(messages)

        def run(message):
            ref = next(actors).echo.remote(message) if "actors" in peer.OPTIONS else echo.remote(message)
            return ray.get(ref, timeout=peer.RESULT_WITHIN_SECONDS)

        peer.serve(peer.versions("ray"), [], submit, run)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
