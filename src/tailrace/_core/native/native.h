/* The native core: what its files share.
 *
 * It is the twin of `_core/python`: same names, same errors and, among actors that only use
 * channels, the same order of effects.
 *
 * Invariants
 * - The GIL is the lock. Whatever changes a queue, a buffer or a claim runs from its first look at
 *   the channel to the last of its stores without a call that could run Python code: no decref
 *   that may free, no allocation of a tracked object, no method call. What such a section owes to
 *   others (a wake-up, a dropped value) it leaves in an `Effects`, which is paid afterwards.
 * - A sleeper is claimed at most once; the claim alone decides what happened. Claiming takes it
 *   out of every line it stands in, so nobody who is claimed is ever in line.
 * - A closed channel has nobody in line; a receiver stands in line only while nothing is buffered
 *   or returned, a sender only while returned + buffered >= capacity.
 * - All state is that of the module (`State`) or of an object. `State` outlives every object, as
 *   each holds its type and each type the module.
 */
#ifndef TAILRACE_NATIVE_H
#define TAILRACE_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <structmember.h>

#include "docs.h"
#include "inside.h"

#if defined(__GNUC__) || defined(__clang__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NEVER_INLINE __attribute__((noinline))
#elif defined(_MSC_VER)
#define ALWAYS_INLINE __forceinline
#define NEVER_INLINE __declspec(noinline)
#else
#define ALWAYS_INLINE inline
#define NEVER_INLINE
#endif

#define FREE_OPERATIONS 256
#define FREE_SELECTS 32
#define FEW_CASES 4
#define OPERATIONS_BUDGET 128 /* checked against `common.BUDGET` */
#define YIELD_STEPS 32 /* as how many steps one counts in which a budget was spent */
#define NO_LIMIT PY_SSIZE_T_MAX

typedef struct State State;
typedef struct Scheduler Scheduler;
typedef struct Sleeper Sleeper;
typedef struct Operation Operation;
typedef struct Select Select;
typedef struct Channel Channel;
typedef struct Actor Actor;

/* How far an operation or select has come. */
enum { FRESH, BEGUN, YIELDED, PARKED, SPENT };
/* What woke a sleeper. The order is known to `threads.py` and `done.py`, by name. */
enum { UNCLAIMED, HAPPENED, LOOK_AGAIN, TIMED_OUT, CANCELLED };
/* Why an operation is not for the free list: it has a scheduler, for now; or for other reasons. */
enum { FOR_A_TASK = 1, FOR_GOOD = 2 };
/* Who sleeps: an actor of ours, a task of any other kind, a thread; nobody yet. */
enum { NOBODY, ACTOR, TASK, THREAD };
/* What an operation does. The even ones receive. */
enum { RECV = 0, SEND = 1, NEXT = 2, SEND_MANY = 3, RECV_MANY = 4, DONE = 5 };
enum { NO_TIMEOUT, TIMEOUT, DEADLINE };
enum { BLOCK, DROP_NEWEST, DROP_OLDEST };

/* What sleeps: the common beginning of Operation and Select. As long as it is parked it is just
 * enough of a future for any task to await. */
struct Sleeper {
    PyObject_HEAD
    State *state;
    Scheduler *scheduler; /* of the loop that resumes a task; an actor has its own */
    PyObject *driver;     /* an Actor; the callback of another task; the lock that a thread waits on */
    PyObject *context;    /* in which that callback is called */
    PyObject *messages;   /* list: one for each time its task was cancelled while it slept here */
    double since;         /* the loop's time at which it was parked */
    uint8_t phase, claim, party;
    uint8_t encumbered;   /* holds more than a channel and a value: not for the free list as it is */
    bool blocking;        /* _asyncio_future_blocking */
    uint8_t kind;         /* of an operation */
    bool queued;          /* an operation that stands in line, which holds a reference to it */
    bool busy;            /* in a step: code of others that runs in it must not drive it */
};

struct Operation {
    Sleeper base;
    Channel *channel; /* NULL for DONE */
    PyObject *value;  /* to be sent, or received */
    Operation *next, *prev;
    Select *select;   /* as one of whose cases it is parked */
    Py_ssize_t ticket; /* under which its value was handed over; 0 for none */
    Py_ssize_t count;  /* RECV_MANY: how many at most; SEND_MANY: how many were sent */
    PyObject *values;  /* SEND_MANY: where they come from */
};

struct Select {
    Sleeper base;
    Operation **cases; /* NULL for no case; `few`, where they are */
    Py_ssize_t count;
    Operation *few[FEW_CASES];
    Operation *winner; /* borrowed: the case that happened */
    PyObject *timer;
    double timeout, deadline;
    uint8_t timing;    /* NO_TIMEOUT, TIMEOUT, DEADLINE */
    bool priority;
};

typedef struct {
    Operation *head, *tail;
} Queue;

/* A ring of references. */
typedef struct {
    PyObject **items;
    Py_ssize_t head, count, size;
} Ring;

/* A value that a cancelled receiver gave back. */
typedef struct {
    Py_ssize_t ticket;
    PyObject *value;
} Returned;

struct Channel {
    PyObject_HEAD
    State *state;
    Py_ssize_t limit; /* the capacity as a number of values */
    Ring buffer;
    Queue receivers, senders;
    Returned *returned; /* a heap by ticket: older than the buffer, received first, never dropped */
    Py_ssize_t returned_count, returned_size;
    Py_ssize_t sent, dropped;
    PyObject *cause, *capacity, *name, *ends, *origin, *weakrefs;
    uint8_t overflow;
    bool closed;
};

struct Scheduler {
    PyObject_HEAD
    State *state;
    PyObject *loop, *call_soon, *call_soon_threadsafe, *is_closed, *time, *context, *run;
    PyObject *get_loop;     /* what the sleepers of its tasks have under this name */
    PyObject *weakrefs;
    PyObject *future_arguments; /* {"loop": loop} */
    Ring ready;             /* actors and other parties to be resumed, each a reference */
    PyThreadState *thread;  /* which is in a step of this scheduler's */
    PyObject *current;      /* borrowed: the actor that is the loop's current task */
    double now;             /* the loop's time as read in this turn; negative: not yet */
    Py_ssize_t place;       /* where asyncio's dictionary of current tasks has this loop's */
    int steps;              /* of this turn */
    int stride;             /* how many steps go by between two looks at the clock */
    Py_ssize_t resumed, owed; /* how many were; how many must have been when the next turn ends */
    bool scheduled;         /* `run` is on its way, or running */
    bool turning;           /* `run` is running */
    bool again;             /* and on its way once more: see `scheduler_keep_order` */
    bool timeless;          /* a virtual clock: only the count bounds a turn */
};

/* The size of asyncio's own Future, whose fields come first in an actor; checked at import. */
#if PY_VERSION_HEX >= 0x030D0000
#define FUTURE_SIZE 112
#else
#define FUTURE_SIZE 128
#endif

struct Actor {
    union {
        PyObject object;
        char future[FUTURE_SIZE];
    } base;
    Scheduler *scheduler;
    PyObject *coroutine, *context, *name;
    sendfunc send_value;       /* the coroutine's, where it has one */
    PyObject *waiting;         /* what it sleeps in: a Sleeper where `parked`, else any future */
    PyObject *thrown;          /* what is raised in it when it is resumed */
    PyObject *cancel_message;
    PyObject *cancelled_error; /* that ended it */
    PyObject *after;           /* called when it has resumed from a send: see `when_sent` */
    Py_ssize_t number;         /* of several of one name; 0 for none */
    int cancelling;
    bool parked, must_cancel, ended, log_destroy_pending;
};

struct State {
    PyObject *module;
    PyTypeObject *Channel, *Sleeper, *Operation, *SendMany, *RecvMany, *Select, *Scheduler, *Actor;
    PyTypeObject *End, *SendingEnd, *ReceivingEnd, *BlockingSender, *BlockingReceiver, *Blocking;
    PyTypeObject *Future; /* asyncio's */
    Py_ssize_t budget, full_budget, cancelled_threads, actors_named;
    Scheduler *active;    /* borrowed: the scheduler that stepped last; see `active_here` */
    Scheduler *latest;    /* borrowed: the one asked for last */
    PyObject *schedulers; /* by loop: weak references by its address */
    uint64_t *dice;       /* of the thread `dice_thread` */
    uint64_t dice_thread;
    PyObject *stop_iteration; /* reused, see `hand_out` */
    Operation *free[FREE_OPERATIONS];
    int free_count;
    Select *free_selects[FREE_SELECTS];
    int free_select_count;
    bool future_is_known; /* a future begins as FutureInside says */
    bool yielding; /* an operation has just yielded, for its budget was spent */
    PyObject *zero, *empty_tuple, *msg_names, *context_names;
    PyObject *no_result; /* what a sleeper that happened has as its `result` */
    /* of asyncio's Future */
    PyObject *future_cancel, *future_set_result, *future_set_exception;
    /* given by `bind` */
    PyObject *Closed, *WouldBlock, *CancelledError, *check_capacity, *check_overflow;
    PyObject *check_timeout, *label, *rearmed, *block, *warn_unused, *warn_lost;
    PyObject *resume_then, *random_bits, *monotonic, *scheduled_tasks;
    PyObject *get_running_loop, *get_event_loop, *iscoroutine, *current_tasks, *swap_current_task;
    PyObject *add_awaited_by, *discard_awaited_by, *loop_time;
    /* interned */
    PyObject *str_result, *str_get_loop, *str_loop, *str_blocking, *str_cancel, *str_throw;
    PyObject *str_add_done_callback, *str_release, *str_ready, *str_watch, *str_withdraw;
    PyObject *str_outcome, *str_overflow, *str_add, *str_data, *str_remove, *str_claim;
    PyObject *str_pending_removals, *str_discarded, *dice_key;
};

/* What an atomic section leaves to be done after it. */
typedef struct {
    Operation *woken;    /* a reference: the peer that was claimed */
    PyObject *discarded; /* a reference: dropped by an overflow policy */
    bool asked;          /* code of others ran, and what was seen before it may be stale */
} Effects;

/* What an attempt says. */
typedef enum { FAILED = -1, PENDING, SUCCESS, CLOSED } Verdict;

/* --- references and exceptions, on every version ---------------------------------------------- */

static inline PyObject *
take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

static inline void
raise_exception(PyObject *error) /* takes the reference */
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(Py_NewRef(Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
}

/* Keep an object that is being deallocated, for a free list: with one reference, which is the
 * list's, and still known to the collector, which so need not be told of it again and again. */
static inline void
revive(PyObject *object)
{
#ifdef Py_REF_DEBUG
    _Py_NewReference(object);
#else
    Py_SET_REFCNT(object, 1);
#endif
}

/* --- rings ------------------------------------------------------------------------------------ */

static int ring_grow(Ring *ring);
static void ring_clear(Ring *ring);
static int ring_traverse(Ring *ring, visitproc visit, void *arg);

static inline bool
ring_has_room(Ring *ring)
{
    return ring->count < ring->size || ring_grow(ring) == 0;
}

static inline void
ring_push(Ring *ring, PyObject *item) /* takes the reference; there is room */
{
    ring->items[(ring->head + ring->count++) & (ring->size - 1)] = item;
}

static inline PyObject *
ring_pop(Ring *ring) /* not empty; the reference is the caller's */
{
    PyObject *item = ring->items[ring->head];
    ring->head = (ring->head + 1) & (ring->size - 1);
    ring->count--;
    return item;
}

/* The scheduler that is in a step in this thread, or NULL. */
static inline Scheduler *
active_here(State *state)
{
    Scheduler *scheduler = state->active;
    return scheduler != NULL && scheduler->thread == PyThreadState_Get() ? scheduler : NULL;
}

/* --- sleeper.c -------------------------------------------------------------------------------- */

static PyType_Spec sleeper_spec;
static bool claim(Sleeper *sleeper, uint8_t how, Operation *winner);
static bool claim_and_wake(Sleeper *sleeper, uint8_t how);
static void wake(Operation *operation);
static void wake_done(Operation *operation);
static void attach_actor(Sleeper *sleeper, Actor *actor);
static bool cancel_sleeper(Sleeper *sleeper, PyObject *message);
static PyObject *cancellation_of(Sleeper *sleeper);
static int sleeper_traverse(Sleeper *sleeper, visitproc visit, void *arg);
static void sleeper_clear(Sleeper *sleeper);
static void pay_discarded(State *state, PyObject *value);
static int rearmed(Sleeper *sleeper, PyObject *interrupt);
static PyObject *interrupt_of(PyObject *const *args, Py_ssize_t count);
static PyObject *hand_out(State *state, PyObject *value);
static PyObject *hand_out_anew(PyObject *value);

static inline Sleeper *
sleeper_of(Operation *operation)
{
    return operation->select != NULL ? (Sleeper *)operation->select : &operation->base;
}

/* --- queue.c ---------------------------------------------------------------------------------- */

static void queue_append(Queue *queue, Operation *operation); /* takes a reference of its own */
static void queue_unlink(Queue *queue, Operation *operation); /* its reference is the caller's */
static bool queue_vet_first(State *state, Queue *queue);
static Py_ssize_t queue_waiting(State *state, Queue *queue);
static Queue *queue_of(Operation *operation);

static inline Scheduler *
scheduler_of_party(Sleeper *sleeper)
{
    return sleeper->party == ACTOR ? ((Actor *)sleeper->driver)->scheduler : sleeper->scheduler;
}

/* See to it that the first in line can be claimed; true if what was seen before may be stale. */
static inline bool
queue_vet(State *state, Queue *queue)
{
    if (queue->head == NULL)
        return false;
    Sleeper *sleeper = sleeper_of(queue->head);
    if (sleeper->party == ACTOR &&
        ((Actor *)sleeper->driver)->scheduler == active_here(state))
        return false;
    return queue_vet_first(state, queue);
}

/* --- channel.c -------------------------------------------------------------------------------- */

static ALWAYS_INLINE PyObject *channel_take(Channel *channel, Effects *effects);
static int channel_give_back(Channel *channel, Py_ssize_t ticket, PyObject *value, Effects *effects);
static PyObject *channel_returned_before(Channel *channel, Py_ssize_t ticket, Effects *effects);
static PyObject *closed_error(Channel *channel);
static PyObject *channel_send(Channel *self, PyObject *value);
static PyObject *channel_recv(Channel *self, PyObject *unused);
static PyObject *channel_send_nowait(Channel *self, PyObject *value);
static PyObject *channel_recv_nowait(Channel *self, PyObject *unused);
static PyObject *channel_send_many(Channel *self, PyObject *values);
static PyObject *channel_recv_many(Channel *self, PyObject *n);
static PyType_Spec channel_spec;

/* --- operation.c and many.c ------------------------------------------------------------------- */

static inline Operation *operation_new(State *state, Channel *channel, uint8_t kind, PyObject *value);
static Operation *operation_of_type(State *state, PyTypeObject *type, Channel *channel, uint8_t kind);
static ALWAYS_INLINE Verdict attempt(Operation *operation, Effects *effects);
static int interrupted(Operation *operation, PyObject *interrupt);
static PySendResult raise_busy(Sleeper *sleeper);
static ALWAYS_INLINE int park(Operation *operation, Select *select);
static ALWAYS_INLINE PyObject *outcome(Operation *operation);
static PyObject *raise_closed(Operation *operation);
static bool do_now(Channel *channel, uint8_t kind, PyObject *value, PyObject **result);
static PyObject *operation_await(Operation *self);
static PySendResult select_send(PyObject *self, PyObject *arg, PyObject **result);
static PySendResult operation_send(PyObject *self, PyObject *arg, PyObject **result);
static PyObject *operation_iternext(PyObject *self);
static PyObject *recv_many_outcome(Operation *self);
static PySendResult send_many_send(PyObject *self, PyObject *arg, PyObject **result);
static int operation_traverse(Operation *self, visitproc visit, void *arg);
static int operation_clear(Operation *self);
static void operation_finalize(PyObject *self);
static void operation_dealloc(Operation *self);
static PyType_Spec operation_spec, send_many_spec, recv_many_spec;

static inline bool
receives(Operation *operation)
{
    return (operation->base.kind & 1) == 0;
}

/* Whether the next operation must first yield to the scheduler. */
static inline bool
budget_is_spent(State *state)
{
    if (state->budget > 0)
        return false;
    state->budget = state->full_budget;
    state->yielding = true;
    return true;
}

/* --- select.c, ends.c ------------------------------------------------------------------------- */

static PyType_Spec select_spec;
static PyType_Spec end_spec, sending_end_spec, receiving_end_spec;
static PyType_Spec blocking_sender_spec, blocking_receiver_spec, blocking_spec;
static PyObject *select_call(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names);
static PyObject *select_nowait_call(PyObject *module, PyObject *const *args, Py_ssize_t count,
                             PyObject *names);
static PyObject *end_new(PyTypeObject *type, Channel *channel);
static void select_leave(Select *select, Operation *winner);

/* --- scheduler.c ------------------------------------------------------------------------------ */

static PyType_Spec scheduler_spec;
static PyObject *running_loop(State *state);
static Scheduler *scheduler_of(State *state, PyObject *loop);
static Scheduler *scheduler_here(State *state);
static bool is_reachable(Scheduler *scheduler);
static inline void scheduler_push(Scheduler *scheduler, PyObject *item);
static double scheduler_now(Scheduler *scheduler);
static void scheduler_leave(Scheduler *scheduler);
static inline int set_current(Scheduler *scheduler, PyObject *actor);

static inline void
scheduler_enter(Scheduler *scheduler)
{
    scheduler->state->active = scheduler;
    scheduler->thread = PyThreadState_Get();
    scheduler->now = -1.0;
}

/* --- actor.c, task.c -------------------------------------------------------------------------- */

static PyType_Spec actor_spec;
static int step_soon(Actor *actor);
static int actor_begin(Actor *actor, Scheduler *scheduler, PyObject *coroutine, PyObject *name,
                PyObject *context);
static PyObject *spawn(PyObject *module, PyObject *const *args, Py_ssize_t count);
static inline int actor_resume(Actor *actor);
static int actor_cancel(Actor *actor, PyObject *message);
static PyObject *when_sent(PyObject *module, PyObject *const *args, Py_ssize_t count);
static PyObject *parked_on(PyObject *module, PyObject *task);

static inline bool
is_operation(State *state, PyObject *object)
{
    return Py_IS_TYPE(object, state->Operation) || PyObject_TypeCheck(object, state->Operation);
}

static inline bool
is_sleeper(State *state, PyObject *object)
{
    return Py_IS_TYPE(object, state->Operation) || PyObject_TypeCheck(object, state->Sleeper);
}

static inline bool
is_actor(State *state, PyObject *object)
{
    return Py_IS_TYPE(object, state->Actor) || PyObject_TypeCheck(object, state->Actor);
}

/* --- module.c --------------------------------------------------------------------------------- */

static struct PyModuleDef native_module;
static int dice_below(State *state, int n);

static inline State *
state_of(PyObject *self)
{
    return (State *)PyModule_GetState(PyType_GetModuleByDef(Py_TYPE(self), &native_module));
}

#endif
