/* What people read of the native core's names: the same words as in `_core/python`. */
#ifndef TAILRACE_DOCS_H
#define TAILRACE_DOCS_H

#define channel_doc \
"Channel(capacity=0, *, name='', overflow='block')\n--\n\n" \
"A typed, synchronised, optionally buffered pipe between actors, tasks and threads.\n\n" \
"``Channel[int]()`` is a rendezvous: a send returns when a receiver has taken the value.\n" \
"``Channel[int](64)`` holds up to 64 values, ``Channel[int](math.inf)`` any number (for\n" \
"feedback loops). `overflow` says what a send does when there is no room: wait (\"block\"), or\n" \
"drop the new or the oldest value, counted in `statistics`. `name` is how logs and graphs call\n" \
"it. TypeError or ValueError for a capacity or policy that is none.\n\n" \
"Any number of tasks, loops and threads may use one channel at once; each value goes to\n" \
"exactly one receiver, and both sides are served first in, first out."

#define send_doc "send($self, value, /)\n--\n\n" \
"Await it to send `value`: until a receiver took it, or at capacity ≥ 1 it is buffered.\n\n" \
"Raises `Closed` (also when the channel closes meanwhile: then `value` was not sent).\n" \
"Cancelled: CancelledError means it was not sent; a value taken in the same instant makes\n" \
"the await return, and the cancellation arrives at the task's next one."

#define recv_doc "recv($self, /)\n--\n\n" \
"Await it for the next value. Raises `Closed` once the channel is closed and drained.\n\n" \
"Cancelled: a value handed over in the same instant goes back, in its place in the order."

#define send_nowait_doc "send_nowait($self, value, /)\n--\n\n" \
"Send at once, or raise `WouldBlock`; `Closed` as for `send`."

#define recv_nowait_doc "recv_nowait($self, /)\n--\n\n" \
"Receive at once, or raise `WouldBlock`; `Closed` as for `recv`."

#define send_many_doc "send_many($self, values, /)\n--\n\n" \
"Await it to send all `values`, in order. Not a case for `select`.\n\n" \
"After any exception, cancellation included, the operation's ``sent`` says how many were\n" \
"sent: go on with ``values[op.sent:]``. An iterator may already have given out the value\n" \
"that was not sent."

#define recv_many_doc "recv_many($self, n, /)\n--\n\n" \
"Await it for 1 to `n` values: waits for one, then takes what is there, in order.\n\n" \
"Raises `Closed` as `recv`. Cancelled: none was taken. Not a case for `select`."

#define operation_doc \
"One channel operation that has not happened yet: await it, or give it to `select`, once.\n\n" \
"Awaiting raises `Closed` as its channel's semantics say. When the await raises\n" \
"`CancelledError` the operation did not happen; when it happened, the await returns.\n" \
"Dropping one unused warns ``RuntimeWarning: … was never awaited``."

#define select_doc "select($module, /, *cases, timeout=None, priority=False)\n--\n\n" \
"Wait until one of `cases` can happen, do that one and no other: ``(index, value)``.\n\n" \
"A case is an operation (``channel.recv()``, ``channel.send(value)``, ``done(future)``) or\n" \
"None, which never happens (Go's nil channel). Among several that are ready the choice is\n" \
"uniformly random; with `priority` the first listed wins. After `timeout` seconds the answer\n" \
"is ``(None, None)``.\n\n" \
"A receive from a closed, drained channel is ready, with the `Closed` instance as its value;\n" \
"if it was closed with a cause, that `Closed` is raised. A send on a closed channel raises\n" \
"`Closed` when it is the case chosen.\n\n" \
"TypeError for what is not an operation; ValueError when nothing could ever happen.\n" \
"Cancelled: no case happened. A send that was taken in the same instant makes the await\n" \
"return, and the cancellation arrives at the task's next one."

#define select_nowait_doc "select_nowait($module, /, *cases, priority=False)\n--\n\n" \
"Do one of `cases` if one can happen at once, else raise `WouldBlock` (Go's ``default``).\n\n" \
"Cases, choice and values are as for `select`."

#define spawn_doc "spawn($module, coroutines, name, first, ended, /)\n--\n\n" \
"Start an actor for each of a list of coroutines: a dict of them.\n\n" \
"They are called ``name#first`` and so on; with `first` 0 there is one, called `name`. `ended`\n" \
"is called with each that has ended, in an empty context and as part of no task."
#define seed_doc "seed($module, n, /)\n--\n\n" \
"Start the random numbers of select at `n`, and a new budget, for runs that repeat."

#define take_value_doc "take_value($self, /)\n--\n\n" \
"Without the lock, once, after it happened: the value."

#endif
