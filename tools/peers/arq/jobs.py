"""The echo job of arq, and the settings of its worker."""

import peer
from arq.connections import RedisSettings

# As it comes it writes two lines for each job, which would be measured, too.
LOGGING = {"version": 1, "disable_existing_loggers": False, "loggers": {"arq": {"level": "WARNING"}}}


async def echo(_context, message):
    peer.done(message["number"])
    return message


class WorkerSettings:
    functions = [echo]
    redis_settings = RedisSettings.from_dsn(peer.REDIS_URL)


for name, value in peer.OPTIONS["worker"].items():
    setattr(WorkerSettings, name, value)
