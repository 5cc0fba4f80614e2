"""Pipelined data processing: and now it is real. "OK" means that the event is on disk.

The same program with another last stage: a store that writes into an SQLite database and
acknowledges a message when its transaction is committed.
"""

from tailrace import Channel, Group, Message, Receiver, Sender, run
from tailrace.listen import listen_http
from tailrace.store import store_sqlite


async def filter(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        if msg.data == "bar":
            msg.abort("filtered")  # the HTTP caller hears "aborted: bar"
        else:
            await out.send(msg)


async def enrich(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        msg.data = f"☆ {msg.data} ☆"
        await out.send(msg)


def main(go: Group, bind: str = "127.0.0.1:8080", database: str = "events.db") -> None:
    to_filter = Channel[Message[str]](name="to_filter")
    to_enrich = Channel[Message[str]](name="to_enrich")
    to_store = Channel[Message[str]](name="to_store")

    go(listen_http(bind, "/incoming"), to_filter)
    go(filter, to_filter, to_enrich)
    go(enrich, to_enrich, to_store, actors=3)
    go(store_sqlite(database), to_store)  # acks: the HTTP caller hears "OK: ☆ foo ☆"


if __name__ == "__main__":
    run(main)
