"""Pipelined data processing: what if every message is an HTTP request?

The talk puts a `Done` channel into each message, on which the last stage tells the waiting request
the outcome. Here a `Message` does that: `ack` and `abort` settle it, and the request is answered.
The rest of the pipeline stays the same.

    $ python examples/talk/pipeline_http.py
    $ curl 'http://127.0.0.1:8080/incoming?data=foo'
    OK: ☆ foo ☆
    $ curl 'http://127.0.0.1:8080/incoming?data=bar'
    aborted: bar
"""

from tailrace import Channel, Group, Message, Receiver, Sender, run
from tailrace.listen import listen_http


async def filter(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        if msg.data == "bar":
            msg.abort("filtered")
        else:
            await out.send(msg)


async def enrich(inbox: Receiver[Message[str]], out: Sender[Message[str]]) -> None:
    async for msg in inbox:
        msg.data = f"☆ {msg.data} ☆"
        await out.send(msg)


async def store(inbox: Receiver[Message[str]]) -> None:
    async for msg in inbox:
        print(msg.data)  # mock storage
        msg.ack()


def main(go: Group, bind: str = "127.0.0.1:8080") -> None:
    to_filter = Channel[Message[str]](name="to_filter")
    to_enrich = Channel[Message[str]](name="to_enrich")
    to_store = Channel[Message[str]](name="to_store")

    print(f"listening on {bind}")
    go(listen_http(bind, "/incoming"), to_filter)
    go(filter, to_filter, to_enrich)
    go(enrich, to_enrich, to_store)
    go(store, to_store)


if __name__ == "__main__":
    run(main)  # until Ctrl-C: then it answers the requests that it has, and ends
