"""Runs echo jobs on arq."""

import asyncio
import itertools
import sys

import peer
from arq import create_pool
from arq.connections import RedisSettings

# So many submissions are on their way at once.
CHUNK = 100

loop = asyncio.new_event_loop()
pool = loop.run_until_complete(create_pool(RedisSettings.from_dsn(peer.REDIS_URL)))
worker = [sys.executable, "-m", "arq", "jobs.WorkerSettings", "--custom-log-dict", "jobs.LOGGING"]
workers = [peer.worker(*worker) for _ in range(peer.OPTIONS["processes"])]


def submit(messages):
    async def chunk_by_chunk():
        while chunk := list(itertools.islice(messages, CHUNK)):
            await asyncio.gather(*(pool.enqueue_job("echo", message) for message in chunk))

    loop.run_until_complete(chunk_by_chunk())


def run(message):
    async def until_result():
        job = await pool.enqueue_job("echo", message)
        return await job.result(timeout=peer.RESULT_WITHIN_SECONDS, poll_delay=peer.OPTIONS["result_poll_delay"])

    return loop.run_until_complete(until_result())


peer.serve(peer.versions("arq", "redis", "hiredis"), workers, submit, run)
