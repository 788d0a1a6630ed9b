"""The published CAP SDK for Python, asked over its standard input and output.

A question is one byte, then three values, each with its length in four bytes (big endian) before it. The answer is one byte, 0 for yes
and 1 for "the SDK refuses", and one value. What the questions mean stands at their functions. Packets are random, so the SDK's rules
for the contents of a packet are left aside where it signs; its code for signatures is called as it is.
"""

import logging
import random
import struct
import sys
from datetime import datetime, timedelta, timezone

from cap import packet_boundary, production_signing, trust_signing, worker_trust
from cap.pb.cordum.agent.v1 import (  # noqa: F401  They fill the pool of descriptors.
    alert_pb2,
    buspacket_pb2,
    handshake_pb2,
    heartbeat_pb2,
    job_pb2,
    safety_pb2,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.internal import api_implementation

LOG = logging.getLogger("peer")
LOG.addHandler(logging.NullHandler())
LOG.propagate = False
packet_boundary.validate_packet = lambda packet: None
CLASSES = {}
KEYS = {}


def class_of(name):
    if name not in CLASSES:
        CLASSES[name] = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name.decode()))
    return CLASSES[name]


def key_of(pem):
    if pem not in KEYS:
        KEYS[pem] = load_pem_private_key(pem, None) if b"PRIVATE" in pem else load_pem_public_key(pem)
    return KEYS[pem]


def parse(data):
    packet = buspacket_pb2.BusPacket()
    packet.ParseFromString(data)
    return packet


def canonical(name, data, _):
    """A message as it came, written deterministically."""
    return class_of(name).FromString(data).SerializeToString(deterministic=True)


def known(name, data, _):
    """The same without what is not known."""
    message = class_of(name).FromString(data)
    message.DiscardUnknownFields()
    return message.SerializeToString(deterministic=True)


def made(name, seed, _):
    """A random message of a type, written deterministically."""
    message = class_of(name)()
    fill(message, random.Random(seed), 4)
    return message.SerializeToString(deterministic=True)


def described(name, _, __):
    """The fields of a message type, one a line: number, name, type, whether it repeats, the choice that it belongs to."""
    fields = sorted(class_of(name).DESCRIPTOR.fields, key=lambda field: field.number)
    return "\n".join(
        f"{field.number} {field.name} {field.cpp_type}{int(field.type == FieldDescriptor.TYPE_BYTES)} "
        f"{int(field.is_repeated)} {field.containing_oneof.name if field.containing_oneof else '-'}"
        for field in fields
    ).encode()


def runtime(_, __, ___):
    """The runtime of protobuf: upb, or the one in Python."""
    return api_implementation.Type().encode()


def packet_sign(pem, data, _):
    """A packet, signed as the SDK signs."""
    return packet_boundary.finalize_packet(parse(data), key_of(pem)).SerializeToString(deterministic=True)


def packet_verify(pem, data, _):
    """Whether the SDK takes a signed packet."""
    packet = parse(data)
    if not packet_boundary.verify_packet(packet, {packet.sender_id: key_of(pem)}, LOG):
        raise ValueError("not verified")
    return b""


def trust_sign(pem, data, _):
    """A packet of the trust handshake, signed."""
    packet = parse(data)
    trust_signing.sign_trust_packet(packet, key_of(pem))
    return packet.SerializeToString(deterministic=True)


def trust_verify(pem, data, key_id):
    """Whether the SDK takes a signed packet of the trust handshake."""
    trust_signing.verify_trust_packet(parse(data), {key_id.decode(): key_of(pem)})
    return trust_signing.trust_packet_digest(parse(data))


def production_sign(pem, data, _):
    """A packet of CAP-PRODUCTION, signed; its times are set to the present."""
    packet = parse(data)
    now = datetime.now(timezone.utc)
    packet.created_at.FromDatetime(now)
    packet.signature_metadata.expires_at.FromDatetime(now + timedelta(seconds=200))
    return production_signing.sign_production_packet(packet, key_of(pem))


def production_verify(pem, data, _):
    """Whether the SDK takes a packet of CAP-PRODUCTION."""
    packet = parse(data)
    trust = production_signing.ProductionTrust(
        audience=packet.signature_metadata.audience,
        tenant=packet.identity.tenant_id,
        sender=packet.sender_id,
        public_keys={packet.signature_metadata.key_id: key_of(pem)},
    )
    return production_signing.verify_production_packet(data, trust).SerializeToString(deterministic=True)


class Worker:
    """The worker of the handshake that is going on."""


def handshake_begin(pem, scheduler_pem, purpose):
    """A worker's challenge request; the purpose is a digit."""
    Worker.config = worker_trust.WorkerTrustConfig(
        worker_id="w-1",
        expected_agent_id="agent-1",
        tenant_id="acme",
        audience=worker_trust.WORKER_HANDSHAKE_AUDIENCE,
        proof_key_id="k",
        proof_private_key=key_of(pem),
        expected_scheduler_id="busbar-scheduler",
        scheduler_public_keys={"server-1": key_of(scheduler_pem)},
        sdk_version="cap-python/v2",
    )
    options = worker_trust.WorkerHandshakeRequestOptions(
        request_id="r-1",
        trace_id="t-1",
        purpose=int(purpose),
        client_nonce=random.randbytes(32),
        created_at=datetime.now(timezone.utc),
    )
    Worker.request = worker_trust.build_challenge_request(Worker.config, options)
    return Worker.request.SerializeToString(deterministic=True)


def handshake_answer(data, token, _):
    """The worker's answer to a challenge, if it believes it."""
    now = datetime.now(timezone.utc)
    Worker.verified = worker_trust.verify_challenge(Worker.config, Worker.request, parse(data), now)
    capability = handshake_pb2.Handshake(
        component_id="w-1",
        role=handshake_pb2.COMPONENT_ROLE_WORKER,
        supported_versions=[1],
        capabilities={"job.echo": True},
        sdk_version="cap-python/v2",
        ready_topics=["job.echo"],
    )
    Worker.answer = worker_trust.build_authenticate(Worker.config, Worker.verified, capability, token.decode(), now)
    return Worker.answer.SerializeToString(deterministic=True)


def handshake_end(data, _, __):
    """The session that a result gives, if the worker believes it."""
    now = datetime.now(timezone.utc)
    return worker_trust.verify_result(Worker.config, Worker.verified, Worker.answer, parse(data), now).token.encode()


NUMBERS = [0, 1, -1, 127, 128, 300, 2**31 - 1, -(2**31), 2**62, -(2**63)]


def value(kind, field, noise):
    if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM):
        return noise.choice([n for n in NUMBERS if -(2**31) <= n < 2**31] + [noise.randrange(-9, 20)])
    if kind == FieldDescriptor.CPPTYPE_INT64:
        return noise.choice(NUMBERS)
    if kind == FieldDescriptor.CPPTYPE_UINT64:
        return noise.choice([n for n in NUMBERS if n >= 0] + [2**64 - 1])
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return noise.choice([0.0, 1.5, float("inf"), noise.uniform(-9, 9)])
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return noise.random() < 0.5
    text = "".join(noise.choice("aZ09 ._:-\u00e4\u20ac\U0001f680\x00") for _ in range(noise.choice([0, 1, 3, 8, 40, 200])))
    return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text


def fill(message, noise, depth):
    """Fills a message by its descriptor; every fourth one with all of its fields, some with fields that nobody knows."""
    full = noise.random() < 0.25
    for field in message.DESCRIPTOR.fields:
        if not full and noise.random() < 0.6:
            continue
        repeated = field.is_repeated
        if field.message_type and field.message_type.GetOptions().map_entry:
            kinds = field.message_type.fields_by_name
            for _ in range(noise.randrange(4)):
                key = value(kinds["key"].cpp_type, kinds["key"], noise)
                getattr(message, field.name)[key] = value(kinds["value"].cpp_type, kinds["value"], noise)
        elif field.message_type:
            for _ in range(noise.randrange(3) if repeated else 1):
                inner = getattr(message, field.name).add() if repeated else getattr(message, field.name)
                inner.SetInParent() if not repeated else None
                if depth:
                    fill(inner, noise, depth - 1)
        elif repeated:
            getattr(message, field.name).extend(value(field.cpp_type, field, noise) for _ in range(noise.randrange(4)))
        else:
            setattr(message, field.name, value(field.cpp_type, field, noise))
    if noise.random() < 0.2:
        # Fields 900 to 902, which no version of CAP has.
        message.MergeFromString(bytes([0xA0, 0x38, noise.randrange(128), 0xAA, 0x38, 2, 7, 7, 0xB5, 0x38, 1, 2, 3, 4]))


QUESTIONS = {
    b"c": canonical,
    b"k": known,
    b"m": made,
    b"d": described,
    b"r": runtime,
    b"s": packet_sign,
    b"v": packet_verify,
    b"t": trust_sign,
    b"u": trust_verify,
    b"p": production_sign,
    b"q": production_verify,
    b"w": handshake_begin,
    b"x": handshake_answer,
    b"y": handshake_end,
}


def take(source):
    (length,) = struct.unpack(">I", source.read(4))
    return source.read(length)


def main():
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while question := source.read(1):
        values = [take(source) for _ in range(3)]
        try:
            status, answer = 0, QUESTIONS[question](*values)
        except Exception as error:  # The SDK refuses in many ways.
            status, answer = 1, f"{type(error).__name__}: {error}".encode()
        sink.write(struct.pack(">BI", status, len(answer)) + answer)
        sink.flush()


main()
