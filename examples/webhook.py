"""Take the webhooks of GitHub: each push once, although deliveries are repeated.

    WEBHOOK_SECRET=... python examples/webhook.py                  # into pushes.db
    WEBHOOK_SECRET=... python examples/webhook.py postgresql://…   # into a PostgreSQL database

GitHub hears 200 once the push is stored, and sends a delivery again that it heard nothing of. The
id of the delivery is the key of the row, so a repeat is stored once. Needs tailrace[http], for
PostgreSQL also tailrace[postgres].
"""

from __future__ import annotations

import argparse
import hmac
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from tailrace import Channel, Group, Message, Receiver, Reject, Sender, each, run
from tailrace.listen import Request, listen_http
from tailrace.store import Store, store_postgres, store_sqlite

Event = dict[str, object]


@dataclass
class Push:
    """A row: one push."""

    repository: str
    branch: str
    commit: str
    author: str
    commits: int


class Repository(msgspec.Struct):
    """What GitHub sends of a repository, as far as it is stored."""

    full_name: str


class Pusher(msgspec.Struct):
    """Who has pushed."""

    name: str


class PushEvent(msgspec.Struct):
    """What GitHub sends of a push, as far as it is stored."""

    ref: str
    after: str
    repository: Repository
    pusher: Pusher
    commits: list[Event] = []


def signed_with(secret: bytes) -> Callable[[Request], bool]:
    """Whether a request has GitHub's signature of its body."""

    def signed(request: Request) -> bool:
        wanted = "sha256=" + hmac.new(secret, request.body, "sha256").hexdigest()
        given = request.headers.get("x-hub-signature-256", "")
        return hmac.compare_digest(given.encode(), wanted.encode())

    return signed


async def pushes_only(inbox: Receiver[Message[Event]], out: Sender[Message[Event]]) -> None:
    """Pass pushes on; GitHub hears 200 for all other events too, with the reason."""
    async for msg in inbox:
        event = msg.headers.get("x-github-event", "none")
        if event == "push":
            await out.send(msg)
        else:
            msg.abort(f"the event {event} is not stored")


def push_of(event: Event) -> Push:
    """The row of an event. A body that is no push is the sender's fault."""
    try:
        push = msgspec.convert(event, PushEvent)
    except msgspec.ValidationError as error:
        raise Reject(f"not a push: {error}") from error
    branch = push.ref.removeprefix("refs/heads/")
    repository = push.repository.full_name
    return Push(repository, branch, push.after, push.pusher.name, len(push.commits))


def store_for(database: str) -> Store[Push]:
    """A table `pushes` in PostgreSQL for its URI, else in a file of SQLite."""
    if database.startswith(("postgres://", "postgresql://")):
        return store_postgres(database, "pushes", type=Push, id_column="delivery")
    return store_sqlite(database, "pushes", type=Push, id_column="delivery")


def main(go: Group, secret: str, database: str, address: str) -> None:
    """Listen → pushes only → push of → store."""
    events = Channel[Message[Event]](name="events")
    pushes = Channel[Message[Event]](name="pushes")
    rows = Channel[Message[Push]](name="rows")
    listener = listen_http(
        address,
        "/github",
        type=Event,
        body="json",
        authorize=signed_with(secret.encode()),
        id_header="x-github-delivery",
        answer="id",
    )
    go(listener, events)
    go(pushes_only, events, pushes)
    go(each(push_of), pushes, rows)
    go(store_for(database), rows)


if __name__ == "__main__":
    if "WEBHOOK_SECRET" not in os.environ:
        sys.exit("set WEBHOOK_SECRET to the secret of the webhook")
    parser = argparse.ArgumentParser(description="Store the pushes that GitHub tells of.")
    parser.add_argument("database", nargs="?", default="pushes.db", help="a file or a URI")
    parser.add_argument("--address", default="127.0.0.1:8080", help="default 127.0.0.1:8080")
    arguments = parser.parse_args()
    run(main, os.environ["WEBHOOK_SECRET"], arguments.database, arguments.address)
