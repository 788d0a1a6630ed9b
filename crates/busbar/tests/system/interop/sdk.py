"""Workers, a client and a listener made of nothing but the published CAP SDK for Python.

    sdk.py agent NATS REDIS FILE TOPIC [ID]   an Agent with default settings, or with the given id, that serves one topic
                                              with SCHEDULER_KEY it takes only what is signed by that key (a file in PEM);
                                              with PROOF_KEY, too, it proves that key (a file in PEM), and trusts nobody else;
                                              with PRODUCTION, too, it speaks CAP-PRODUCTION
    sdk.py plain NATS FILE TOPIC              run_worker with default settings
    sdk.py submit NATS REDIS TOPIC INPUT ID   submit_job straight to the bus
    sdk.py ttl REDIS KEY                      prints how many seconds a key has to live, or less than 0
    sdk.py listen NATS                        prints what is told on the bus, as the SDK understands and judges it, a line each

Handlers append to FILE when they begin and when they end, and do what their input says: {"ms": 5} sleeps, {"fail": …} fails.
"""

import asyncio
import json
import os
import sys

import nats
from cap import submit_job
from cap.packet_boundary import parse_packet
from cap.pb.cordum.agent.v1 import job_pb2
from cap.production_replay import InMemoryReplayStore
from cap.production_signing import ProductionTrust
from cap.runtime import Agent
from cap.validate import validate_bus_packet
from cap.worker import run_worker
from cap.worker_trust import WorkerTrustConfig
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from google.protobuf.json_format import MessageToDict

# Whoever listens on a topic takes its jobs: the listener hears only one that has a worker too.
WATCHED = ["sys.job.result", "sys.job.dlq", "sys.job.cancel", "sys.alert", "job.cap.late", "worker.>"]


def note(file, job_id, what):
    # One write of one line: several processes append to the same file.
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(f"{job_id} 1 {what}\n")


async def work(file, job_id, data):
    note(file, job_id, "start")
    await asyncio.sleep(data.get("ms", 0) / 1000)
    note(file, job_id, "end")


def trust(worker_id, scheduler_keys):
    with open(os.environ["PROOF_KEY"], "rb") as pem:
        key = load_pem_private_key(pem.read(), None)
    return WorkerTrustConfig(
        worker_id=worker_id,
        expected_agent_id="agent",
        tenant_id="default",
        audience="cordum-scheduler",
        proof_key_id="proof-1",
        proof_private_key=key,
        expected_scheduler_id="busbar-scheduler",
        scheduler_public_keys=scheduler_keys,
        sdk_version="cap-python/v2",
    )


async def agent(nats_url, redis_url, file, topic, *worker_id):
    named = {"worker_id": worker_id[0]} if worker_id else {}
    if "SCHEDULER_KEY" in os.environ:
        with open(os.environ["SCHEDULER_KEY"], "rb") as pem:
            named["public_keys"] = {"busbar-scheduler": load_pem_public_key(pem.read())}
    if "PROOF_KEY" in os.environ:
        keys = named.pop("public_keys")
        named |= {"worker_trust_mode": "enforce", "worker_trust": trust(worker_id[0], keys)}
        if "PRODUCTION" in os.environ:
            # The audience is that of the message; this one is only a default.
            pinned = ProductionTrust("worker", keys, tenant="default", sender="busbar-scheduler")
            named |= {"production_trust": pinned, "replay_store": InMemoryReplayStore()}
    runtime = Agent(nats_url=nats_url, redis_url=redis_url, **named)

    @runtime.job(topic)
    async def handle(context, data):
        await work(file, context.job_id, data)
        if data.get("fail") == "exception":
            raise ValueError("told to")
        if data.get("fail") == "nothing":
            return None
        return {"seen": data, "topic": context.job.topic}

    await runtime.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


FAILURES = {
    "retryable": job_pb2.JOB_STATUS_FAILED_RETRYABLE,
    "fatal": job_pb2.JOB_STATUS_FAILED_FATAL,
    "failed": job_pb2.JOB_STATUS_FAILED,
    "running": job_pb2.JOB_STATUS_RUNNING,
}


async def plain(nats_url, file, topic):
    connection = await nats.connect(nats_url)

    async def handle(request):
        data = json.loads(request.labels["input"])
        await work(file, request.job_id, data)
        fail = data.get("fail")
        if fail == "once":
            fail = "retryable" if request.dispatch.attempt == 1 else None
        if fail == "exception":
            raise ValueError("told to")
        if fail == "nothing":
            return None
        if fail == "garbage":
            # What is no packet, before what is one.
            await connection.publish("sys.job.result", b"\xff\x00garbage")
        if fail == "foreign":
            # A pointer outside of the job's own names.
            return job_pb2.JobResult(status=job_pb2.JOB_STATUS_SUCCEEDED, result_ptr="redis://res:somebody-else")
        if fail in FAILURES:
            return job_pb2.JobResult(status=FAILURES[fail], error_code="told_to", error_message="as the input says")
        return job_pb2.JobResult(status=job_pb2.JOB_STATUS_SUCCEEDED)

    task = asyncio.create_task(run_worker(nats_url, topic, handle))
    print("ready", flush=True)
    await task


async def submit(nats_url, redis_url, topic, data, job_id):
    import redis.asyncio

    store = redis.asyncio.from_url(redis_url)
    await store.set(f"ctx:{job_id}", data)
    connection = await nats.connect(nats_url)
    request = job_pb2.JobRequest(job_id=job_id, topic=topic, context_ptr=f"redis://ctx:{job_id}")
    await submit_job(connection, request, trace_id=f"trace-{job_id}", sender_id="a-client")
    await connection.drain()
    await store.aclose()


async def ttl(redis_url, key):
    import redis.asyncio

    store = redis.asyncio.from_url(redis_url)
    print(await store.ttl(key))
    await store.aclose()


async def listen(nats_url):
    connection = await nats.connect(nats_url)

    async def hear(message):
        told = {"subject": message.subject}
        try:
            packet = parse_packet(message.data)
            told["broken"] = [f"{error.field}: {error.message}" for error in validate_bus_packet(packet)]
            told["packet"] = MessageToDict(packet, preserving_proto_field_name=True)
        except Exception as error:
            told["unreadable"] = str(error)
        print(json.dumps(told), flush=True)

    for subject in WATCHED:
        await connection.subscribe(subject, cb=hear)
    await connection.flush()
    print(json.dumps({"subject": "ready"}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    COMMANDS = {"agent": agent, "plain": plain, "submit": submit, "ttl": ttl, "listen": listen}
    asyncio.run(COMMANDS[sys.argv[1]](*sys.argv[2:]))
