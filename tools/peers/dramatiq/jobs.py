"""The echo job of Dramatiq."""

import dramatiq
import peer
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=peer.REDIS_URL)
broker.add_middleware(Results(backend=RedisBackend(url=peer.REDIS_URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def echo(message):
    peer.done(message["number"])
    return message


@dramatiq.actor
def note(message):
    """The same where nobody asks for the result: what an actor returns all the same, Dramatiq complains of in its log."""
    peer.done(message["number"])
