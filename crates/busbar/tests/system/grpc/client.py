"""A client of the gRPC interface that knows nothing of Busbar: it learns every service and message by reflection.

Usage: client.py HOST:PORT [ROOT_CERTIFICATE]; the API key stands in BUSBAR_API_KEY. The stack must run the smoke pack and a
worker that serves job.echo, and none that serves job.default. It ends with an error at the first thing that is not as it should be.
"""

import json
import os
import sys
import threading

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

ADDRESS = sys.argv[1]
ROOT = sys.argv[2] if len(sys.argv) > 2 else None
KEY = os.environ["BUSBAR_API_KEY"]
# No step waits longer than this, in seconds.
PATIENCE = 60
MEBIBYTE = 1024 * 1024
ENDED = {"JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_DENIED", "JOB_STATE_TIMEOUT"}


def connect():
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    if ROOT is None:
        return grpc.insecure_channel(ADDRESS, options)
    with open(ROOT, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(ADDRESS, credentials, options + [("grpc.ssl_target_name_override", "localhost")])


def expect(holds, what):
    if not holds:
        raise SystemExit(f"not as it should be: {what}")


class Service:
    """The calls of one service, made from its descriptor."""

    def __init__(self, channel, descriptor):
        self.channel, self.descriptor = channel, descriptor

    def path(self, name):
        return f"/{self.descriptor.full_name}/{name}"

    def request(self, name, **fields):
        return message_factory.GetMessageClass(self.descriptor.methods_by_name[name].input_type)(**fields)

    def call(self, name, metadata=(("x-api-key", KEY),), timeout=PATIENCE, raw=None, **fields):
        method = self.descriptor.methods_by_name[name]
        make = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        answer = message_factory.GetMessageClass(method.output_type)
        callable_ = make(self.path(name), request_serializer=lambda bytes_: bytes_, response_deserializer=answer.FromString)
        body = self.request(name, **fields).SerializeToString() if raw is None else raw
        return callable_(body, metadata=metadata, timeout=timeout)

    def refused(self, status, code, name, **arguments):
        """Checks that a call is refused with this status and code, and in the way that Google's own library reads."""
        try:
            answer = self.call(name, **arguments)
            list(answer) if self.descriptor.methods_by_name[name].server_streaming else answer
        except grpc.RpcError as error:
            metadata = dict(error.trailing_metadata())
            told = (error.code(), metadata.get("busbar-code"))
            expect(told == (status, code), f"{name}: {told} and not {(status, code)}: {error.details()}")
            info = error_details_pb2.ErrorInfo()
            expect(rpc_status.from_call(error).details[0].Unpack(info), "details that are no ErrorInfo")
            expect((info.domain, info.reason) == ("busbar", code), info)
            return error.details()
        raise SystemExit(f"not as it should be: {name} was not refused with {code}")


def by_reflection(channel):
    """Lists the services in both versions of the protocol, and fetches descriptors."""
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    expected = {"busbar.v1.Jobs", "cordum.v1.CordumApi", "grpc.health.v1.Health"}
    expect(expected <= services, f"services by reflection v1alpha: {services}")
    expect(not any("Kernel" in name for name in services), f"only what is served is told: {services}")
    v1 = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answer = next(v1(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=PATIENCE))
    listed = {service.name for service in answer.list_services_response.service}
    expect(expected <= listed, f"services by reflection v1: {listed}")
    print("services:", *sorted(services | listed))
    pool = descriptor_pool.DescriptorPool(database)
    return [Service(channel, pool.FindServiceByName(name)) for name in ("busbar.v1.Jobs", "cordum.v1.CordumApi")]


def state(jobs, number):
    return jobs.descriptor.file.pool.FindEnumTypeByName("busbar.v1.JobState").values_by_number[number].name


def healthy(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "busbar.v1.Jobs", "cordum.v1.CordumApi"):
        status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE).status
        expect(status == health_pb2.HealthCheckResponse.SERVING, f"health of {service!r}: {status}")
    try:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE)
    except grpc.RpcError as error:
        expect(error.code() == grpc.StatusCode.NOT_FOUND, error)


def one(jobs):
    text = b'{"n": 123456789012345678901234567890, "x": 1.50}'
    labels = {"from": "grpcio"}
    accepted = jobs.call("Submit", topic="job.echo", input_json=text, labels=labels, idempotency_key=f"one-{os.getpid()}")
    again = jobs.call("Submit", topic="job.echo", input_json=text, labels=labels, idempotency_key=f"one-{os.getpid()}")
    expect(again.existing and again.job_id == accepted.job_id, "the same key is the same job")
    job = jobs.call("Wait", job_id=accepted.job_id, timeout_ms=60_000)
    expect(state(jobs, job.state) == "JOB_STATE_SUCCEEDED", job)
    expect(json.loads(job.result_json) == json.loads(text), job.result_json)
    expect(job.labels["from"] == "grpcio" and job.HasField("created_at") and job.decision.decision.startswith("ALLOW"), job)
    expect(jobs.call("Get", job_id=accepted.job_id).id == job.id, "the same job")
    bearer = (("authorization", f"Bearer {KEY}"),)
    expect(jobs.call("Get", metadata=bearer, job_id=job.id).id == job.id, "a bearer's key")
    return job.id


def many(jobs):
    """A thousand at once; another connection watches all of them end."""
    watching, ends, replies = threading.Event(), {}, jobs.call("Watch", topic="job.echo", states=range(6, 11))

    def follow():
        for reply in replies:
            what = reply.WhichOneof("what")
            if what == "begins":
                watching.set()
            else:
                ends[reply.change.job_id] = ends.get(reply.change.job_id, 0) + 1
                if len(ends) == 1000:
                    replies.cancel()

    def follow_until_cancelled():
        try:
            follow()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.CANCELLED:
                print("the watch ended:", error, file=sys.stderr)

    follower = threading.Thread(target=follow_until_cancelled, daemon=True)
    follower.start()
    expect(watching.wait(PATIENCE), "the watch begins")
    batch = [jobs.request("Submit", topic="job.echo", input_json=b"%d" % n) for n in range(1000)]
    batch.insert(7, jobs.request("Submit", topic="no.topic", input_json=b"1"))
    answers = jobs.call("SubmitMany", jobs=batch).answers
    expect(len(answers) == 1001 and answers[7].rejected.code == "topic_invalid", "one of them was bad")
    accepted = [answer.accepted.job_id for answer in answers if answer.HasField("accepted")]
    expect(len(set(accepted)) == 1000, "the others were accepted")
    follower.join(PATIENCE)
    expect(not follower.is_alive(), f"only {len(ends)} ends were seen")
    expect(set(ends) == set(accepted) and set(ends.values()) == {1}, "each end was seen once")
    results = [jobs.call("Get", job_id=accepted[n]).result_json for n in (0, 500, 999)]
    expect(results == [b"0", b"500", b"999"], f"answers are in order: {results}")


def watch(jobs):
    accepted = jobs.call("Submit", topic="job.echo", input_json=b'"watched"')
    replies = list(jobs.call("Watch", job_id=accepted.job_id))
    expect(replies[0].WhichOneof("what") == "job", replies[0])
    expect(replies[-1].job.result_json == b'"watched"', replies[-1])
    first_end = next(n for n, reply in enumerate(replies) if ends(jobs, reply))
    expect(first_end >= len(replies) - 2, "nothing but the job follows its end")
    # Cut off after the first message and resumed: the end is told all the same.
    resumed = list(jobs.call("Watch", job_id=accepted.job_id, cursor=replies[0].cursor))
    expect(resumed[-1].job.result_json == b'"watched"', resumed)


def ends(jobs, reply):
    if reply.WhichOneof("what") == "job":
        return state(jobs, reply.job.state) in ENDED
    return reply.WhichOneof("what") == "change" and state(jobs, reply.change.states[-1]) in ENDED


def cancel(jobs):
    accepted = jobs.call("Submit", topic="job.default", input_json=b"{}")
    expect(state(jobs, jobs.call("Wait", job_id=accepted.job_id, timeout_ms=50).state) not in ENDED, "nobody serves job.default")
    watched = jobs.call("Watch", job_id=accepted.job_id)
    expect(next(watched).WhichOneof("what") == "job", "the job as it is")
    reply = jobs.call("Cancel", job_id=accepted.job_id, reason="changed my mind")
    expect(state(jobs, reply.state) == "JOB_STATE_CANCELLED", reply)
    told = list(watched)
    expect(state(jobs, told[-1].job.state) == "JOB_STATE_CANCELLED", told)


def listed(jobs, job_id):
    seen, token = [], ""
    while True:
        page = jobs.call("List", topic="job.echo", page_size=150, page_token=token)
        seen += [job.id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    expect(job_id in seen and len(seen) >= 1000, f"{len(seen)} jobs are listed")
    times = jobs.call("List", page_size=200).jobs
    stamps = [job.created_at.ToMilliseconds() for job in times]
    expect(stamps == sorted(stamps, reverse=True), "the newest first")


def refusals(jobs, cordum):
    code = grpc.StatusCode
    jobs.refused(code.UNAUTHENTICATED, "unauthenticated", "Submit", metadata=())
    jobs.refused(code.UNAUTHENTICATED, "key_unknown", "Submit", metadata=(("x-api-key", "bb_wrong"),))
    jobs.refused(code.INVALID_ARGUMENT, "topic_invalid", "Submit", topic="echo", input_json=b"1")
    jobs.refused(code.INVALID_ARGUMENT, "unknown_topic", "Submit", topic="job.nosuch", input_json=b"1")
    jobs.refused(code.INVALID_ARGUMENT, "field_invalid", "Submit", topic="job.echo")
    jobs.refused(code.INVALID_ARGUMENT, "field_invalid", "Submit", topic="job.echo", input_json=b"{")
    large = b'"' + b"x" * MEBIBYTE + b'"'
    jobs.refused(code.INVALID_ARGUMENT, "payload_too_large", "Submit", topic="job.echo", input_json=large)
    jobs.refused(code.INVALID_ARGUMENT, "payload_too_large", "Submit", topic="job.echo", input_json=b"1" * 5 * MEBIBYTE)
    jobs.refused(code.INVALID_ARGUMENT, "payload_too_large", "SubmitMany", raw=b"\x0a" + b"\x00" * 65 * MEBIBYTE)
    jobs.refused(code.NOT_FOUND, "job_not_found", "Get", job_id="nobody")
    jobs.refused(code.NOT_FOUND, "job_not_found", "Watch", job_id="nobody")
    jobs.refused(code.NOT_FOUND, "job_not_found", "Cancel", job_id="nobody")
    jobs.refused(code.INVALID_ARGUMENT, "cursor_invalid", "Watch", cursor="garbage")
    jobs.refused(code.INVALID_ARGUMENT, "cursor_invalid", "List", page_token="garbage")
    # No protobuf at all; a field of another type; a message that is cut off; text that is no UTF-8.
    for raw in (b"\xff\xff\xff\xff", b"\x08\x01", b"\x0a\x7fabc", b"\x0a\x02\xff\xfe"):
        jobs.refused(code.INVALID_ARGUMENT, "body_invalid", "Submit", raw=raw)
    cordum.refused(code.INVALID_ARGUMENT, "body_invalid", "SubmitJob", raw=b"\x08\x01")
    cordum.refused(code.INVALID_ARGUMENT, "field_invalid", "SubmitJob", prompt="")
    cordum.refused(code.PERMISSION_DENIED, "forbidden", "SubmitJob", prompt="x", org_id="somebody-else")
    unknown = jobs.channel.unary_unary("/busbar.v1.Jobs/Destroy")
    try:
        unknown(b"", metadata=(("x-api-key", KEY),), timeout=PATIENCE)
        raise SystemExit("not as it should be: there is no such call")
    except grpc.RpcError as error:
        expect(error.code() == code.UNIMPLEMENTED, error)
    try:
        accepted = jobs.call("Submit", topic="job.default", input_json=b"{}")
        jobs.call("Wait", job_id=accepted.job_id, timeout_ms=60_000, timeout=0.3)
        raise SystemExit("not as it should be: the deadline was not kept")
    except grpc.RpcError as error:
        expect(error.code() == code.DEADLINE_EXCEEDED, error)


def familiar(cordum, jobs):
    accepted = cordum.call("SubmitJob", prompt="hello", topic="job.echo", labels={"a": "b"}, team_id="t")
    expect(len(accepted.trace_id) == 32, accepted)
    job = jobs.call("Wait", job_id=accepted.job_id, timeout_ms=60_000)
    result = json.loads(job.result_json)
    expect(result["prompt"] == "hello" and result["topic"] == "job.echo" and result["created_at"], result)
    status = cordum.call("GetJobStatus", job_id=accepted.job_id)
    expect((status.status, status.result_ptr) == ("SUCCEEDED", job.result_ptr), status)
    default = cordum.call("SubmitJob", prompt="for whoever serves it")
    expect(jobs.call("Get", job_id=default.job_id).topic == "job.default", "the default topic")


def main():
    channel = connect()
    jobs, cordum = by_reflection(channel)
    healthy(channel)
    job_id = one(jobs)
    watch(jobs)
    cancel(jobs)
    many(jobs)
    listed(jobs, job_id)
    familiar(cordum, jobs)
    refusals(jobs, cordum)
    # After all that, everything is as before.
    healthy(channel)
    one(jobs)
    print("everything is as it should be")


main()
