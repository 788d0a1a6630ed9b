"""The echo job of Celery."""

import peer
from celery import Celery

app = Celery("jobs", broker=peer.REDIS_URL, backend=peer.REDIS_URL)
app.conf.update(peer.OPTIONS.get("conf", {}))


@app.task(name="echo")
def echo(message):
    peer.done(message["number"])
    return message
