"""The echo job of Ray: as a task, as a task of many, and as a method of an actor."""

import peer
import ray


@ray.remote
def echo(message):
    peer.done(message["number"])
    return message


@ray.remote
def echo_many(messages):
    for message in messages:
        peer.done(message["number"])
    return messages


@ray.remote
class Echo:
    def echo(self, message):
        peer.done(message["number"])
        return message
