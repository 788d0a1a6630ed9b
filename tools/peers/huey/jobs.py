"""The echo job of Huey."""

import peer
from huey import RedisHuey

huey = RedisHuey("jobs", url=peer.REDIS_URL, **peer.OPTIONS.get("huey", {}))


@huey.task()
def echo(message):
    peer.done(message["number"])
    return message
