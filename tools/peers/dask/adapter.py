"""Runs echo jobs on Dask: a scheduler in this process, workers as its children. It keeps nothing on disk."""

import logging

import peer
from distributed import Client, LocalCluster
from jobs import echo


def main():
    here = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": logging.ERROR}
    with LocalCluster(**here, **peer.OPTIONS["cluster"]) as cluster, Client(cluster) as client:
        # Results that nobody holds are forgotten, and what is not yet done is cancelled with them.
        held = []

        def submit(messages):
            held[:] = client.map(echo, list(messages), pure=False, **peer.OPTIONS["map"])

        def run(message):
            return client.submit(echo, message, pure=False).result(timeout=peer.RESULT_WITHIN_SECONDS)

        peer.serve(peer.versions("distributed", "dask"), [], submit, run)


# Its workers import this file once more.
if __name__ == "__main__":
    main()
