/* The native core: declarations that all its files share.
 *
 * It is the twin of `_core/python`: same names, same errors and, among actors that only use
 * channels, the same order of effects.
 *
 * Invariants
 * - The GIL is the lock. Code that changes a queue, a buffer or a claim is an atomic section: from
 *   its first look at the channel to its last store it makes no call that could run Python code (no
 *   decref that may free, no allocation of a tracked object, no method call). The section records
 *   what is left to do (a wake-up, a dropped value) in an `Effects`, which is applied afterwards.
 * - A waiter is claimed at most once; the claim alone decides what happened. A claim removes the
 *   waiter from all queues, so every waiter in a queue is unclaimed.
 * - A closed channel has no parked operations. A receiver is parked only while nothing is buffered
 *   or returned, a sender only while returned + buffered >= capacity.
 * - All state belongs to the module (`State`) or to an object. `State` outlives every object: each
 *   object holds its type, and each type the module.
 */
#ifndef TAILRACE_NATIVE_H
#define TAILRACE_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <structmember.h>

/* LIKELY marks the way of a hop. Without it the compiler lays out the turn for rare cases, and a hop
 * takes 8 % longer. */
#if defined(__GNUC__) || defined(__clang__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NEVER_INLINE __attribute__((noinline))
#define COLD __attribute__((noinline, cold))
#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#else
#define ALWAYS_INLINE inline
#define NEVER_INLINE
#define COLD
#define LIKELY(condition) (condition)
#endif
#define UNLIKELY(condition) !LIKELY(!(condition))

#include "inside.h"

/* A type as module.c makes it. The name is also that of the twin's class. */
#define SPEC(kind, object, more_flags, its_slots)                                                   \
    {                                                                                               \
        .name = "tailrace._core.native." #kind, .basicsize = sizeof(object),                        \
        .flags = Py_TPFLAGS_DEFAULT | (more_flags), .slots = (its_slots),                           \
    }
#define SUBCLASSED (Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE)
#define MADE_HERE Py_TPFLAGS_DISALLOW_INSTANTIATION

/* How a method takes its arguments. */
#define FAST_NAMED(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS
#define PLAIN(function) (PyCFunction)(function), METH_NOARGS
#define ONE(function) (PyCFunction)(function), METH_O

#define FREE_OPERATIONS 256
#define FEW_CASES 8
#define OPERATIONS_BUDGET 128 /* checked against `common.BUDGET` */
#define YIELD_STEPS 32        /* checked too, as is `TURN_STEPS` */
#define TURN_STEPS 512
#define TURN_SECONDS 0.00025

typedef struct State State;
typedef struct Scheduler Scheduler;
typedef struct Turn Turn;
typedef struct Waiter Waiter;
typedef struct Operation Operation;
typedef struct Select Select;
typedef struct Channel Channel;
typedef struct Actor Actor;

/* Phase: how far an operation or select has come, as in `bases.py`. Claim: as `common.Claim`. */
enum { FRESH, BEGUN, YIELDED, PARKED, SPENT };
enum { UNCLAIMED, HAPPENED, ATTEMPT_AGAIN, TIMED_OUT, CANCELLED };
/* Why an operation cannot go to the free list: it has a scheduler, for now; or for good. */
enum { FOR_A_TASK = 1, FOR_GOOD = 2 };
/* What drives a waiter: nothing yet, an actor, a task of any other kind, a thread. */
enum { NO_DRIVER, ACTOR, TASK, THREAD };
/* The kind of a waiter. The even operations receive. */
enum { RECV = 0, SEND = 1, NEXT = 2, SEND_MANY = 3, RECV_MANY = 4, DONE = 5, SELECT = 6 };
enum { BLOCK, DROP_NEWEST, DROP_OLDEST }; /* in the order of `common.Overflow` */

/* Waiter: the common beginning of Operation and Select. While it is parked it is just enough of a
 * future for any kind of task to await. */
struct Waiter {
    PyObject_HEAD
    State *state;
    Scheduler *scheduler; /* of the loop that resumes an actor or other task */
    PyObject *driver;     /* an Actor; the callback of another task; the lock that a thread waits on */
    PyObject *context;    /* in which that callback is called */
    PyObject *cancel_messages; /* list: one for each time its task was cancelled while it was parked */
    union {
        double since;      /* while it is parked: the loop's time at which that began */
        Py_ssize_t ticket; /* of a receive that happened: under which its value was handed over */
    };
    uint8_t phase, claim, driver_kind;
    uint8_t not_reusable;   /* holds more than a channel and a value: cannot go to the free list */
    bool blocking;        /* _asyncio_future_blocking; of a `done` case: whether its source is done */
    uint8_t kind;         /* what it does */
    bool stepping;            /* in a step: user code that the step runs must not drive it */
};

/* Parked operations; or receives that were cancelled, each with the value that it gives back. */
typedef struct {
    Operation *head, *tail;
    Py_ssize_t count;
} Queue;

struct Operation {
    Waiter base;
    Channel *channel; /* NULL for DONE, and once it has given its value back */
    PyObject *value;  /* to be sent, or received */
    Select *select;   /* of which it is a parked case */
    PyObject *values; /* SEND_MANY: where they come from */
    Py_ssize_t count; /* RECV_MANY: how many at most; SEND_MANY: how many were sent */
    Queue *queue;     /* in which it is; the queue holds a reference to it */
    Operation *next, *prev;
};

struct Select {
    Waiter base;
    PyObject *cases;   /* tuple: of operations, None for no case */
    PyObject *timeout; /* seconds, or None */
    PyObject *timer;   /* while it sleeps */
    Operation *winner; /* borrowed: the case that happened */
    bool priority;
};

/* A ring of references. */
typedef struct {
    PyObject **items;
    Py_ssize_t head, count, size;
} Ring;

struct Channel {
    PyObject_HEAD
    State *state;
    Py_ssize_t limit; /* the capacity as a number of values */
    Queue receivers, senders;
    Queue returned;   /* by ticket, oldest first: older than the buffer, and never dropped */
    Ring buffer;
    Py_ssize_t sent, dropped;
    uint8_t overflow;
    bool closed;
    PyObject *cause, *ends, *origin, *capacity, *name, *weakrefs;
};

/* A scheduler does not keep its loop alive: a closed loop is freed with its last user, as with
 * asyncio's own tasks. `State.schedulers` keeps the scheduler while the loop lives. */
struct Scheduler {
    PyObject_HEAD
    State *state;
    PyObject *loop;         /* borrowed; NULL once the loop was freed: see `take_loop` */
    PyObject *alive;        /* weak reference to the loop, whose callback clears `loop` */
    PyObject *clock;        /* that `loop.time` reads; NULL: call `loop.time` */
    PyObject *context;      /* in which the loop calls back: an empty one */
    PyObject *on_quiet;     /* called, once, when `ready` is empty; mostly NULL */
    Ring ready;             /* actors and waiters to be resumed, each a reference */
    PyThreadState *thread;  /* that is in a step of this scheduler */
    PyObject *current;      /* borrowed: the actor that is the loop's current task */
    double now;             /* the loop's time as read in this step; negative: not read */
    Py_ssize_t place;       /* the index of this loop in asyncio's dictionary of current tasks */
    int steps;              /* of this turn */
    int stride;             /* how many steps between two readings of the clock */
    int look;               /* how many steps until the next reading */
    Py_ssize_t resumed, promised; /* how many steps there were; how many there must be when the next turn ends */
    bool scheduled;         /* a turn is scheduled, or running */
    bool turning;           /* a turn is running */
    bool scheduled_again;   /* and another turn is scheduled: see `scheduler_keep_order` */
    bool timeless;          /* on a virtual clock: only the count of steps bounds a turn */
};

/* What the loop calls for one turn. Until then it owns `ready`: a loop that is closed before drops the
 * call, and with it what was to be resumed. */
struct Turn {
    PyObject_HEAD
    Scheduler *scheduler;
    PyObject *blocker; /* in debug mode: the task whose step took too long, as `__self__` */
    bool begun;
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
    /* What a step reads: one line of the processor's cache. */
    sendfunc send_value;       /* the coroutine's, where it has one */
    int cancelling;
    bool parked, begun, must_cancel, ended, log_destroy_pending;
    Scheduler *scheduler;
    PyObject *coroutine, *context;
    PyObject *waiting;         /* what it awaits: a Waiter if `parked`, else any future */
    PyObject *thrown;          /* the exception to raise in it when it is resumed */
    PyObject *after;           /* called when it has resumed from a send: see `when_sent` */
    /* The rest. */
    PyObject *name;
    PyObject *cancel_message;
    PyObject *cancelled_error; /* that ended it */
    PyObject *on_end;          /* called with it when it has ended */
    Py_ssize_t number;         /* of several of one name; 0 for none */
};

/* Parts that are written or found in Python, and given to `bind` under these names. */
#define PARTS(X)                                                                                    \
    X(closed_error) X(WouldBlock) X(CancelledError) X(put_off_cancellation) X(warn_unused)          \
    X(warn_lost) X(raise_not_driven) X(raise_no_callback) X(raise_no_case) X(raise_would_block)     \
    X(wait_for) X(select_options) X(select_nowait_options) X(wake_after) X(tell_dropped)            \
    X(schedulers) X(loop_parts) X(monotonic) X(is_main_thread) X(register_tasks) X(current_tasks)   \
    X(swap_current_task) X(discard_awaited_by) X(get_running_loop) X(future_cancel)                 \
    X(future_set_result) X(future_set_exception) X(no_result)                                     \
    X(put_off) X(hear_put_off)

/* Names of attributes, kept as strings. */
#define NAMES(X)                                                                                    \
    X(result) X(cancel) X(throw) X(release) X(_ready) X(_watch) X(_unwatch) X(take_value)             \
    X(msg) X(context) X(loop) X(call_soon) X(call_soon_threadsafe) X(is_closed) X(get_debug) X(time)

/* Operations to be used again, instead of new ones; each a reference. */
typedef struct {
    Operation *operations[FREE_OPERATIONS];
    int count;
} FreeList;

#define DECLARE(name) PyObject *name;
#define DECLARE_NAME(name) PyObject *str_##name;

struct State {
    /* All references, down to `stop_iteration`. */
    PyTypeObject *Channel, *Waiter, *Operation, *SendMany, *RecvMany, *Select, *Scheduler, *Turn,
        *Actor;
    PyTypeObject *Future; /* asyncio's */
    PARTS(DECLARE)
    NAMES(DECLARE_NAME)
    PyObject *empty_tuple, *msg_names, *context_names;
    PyObject *future_arguments; /* dict: the arguments of a new Future; its loop is stored each time */
    PyObject *stop_iteration; /* reused, see `hand_out` */
    Py_ssize_t budget;
    Scheduler *active;        /* borrowed: the scheduler that stepped last; see `active_here` */
    Scheduler *latest;        /* borrowed: the scheduler that was asked for last */
    uint64_t rng;
    FreeList free[3]; /* of single operations, of SendMany, of RecvMany: see `free_list` */
};

/* What is to be done after an atomic section. */
typedef struct {
    Operation *claimed;  /* a reference: the peer that was claimed, to be woken */
    PyObject *dropped;   /* a reference: dropped by an overflow policy */
    Operation *emptied;  /* a reference: it had given back the value that was taken */
    bool user_code_ran;  /* user code ran: what was read before may be stale */
} Effects;

/* The result of an attempt. */
typedef enum { FAILED = -1, WAIT, SUCCESS, CLOSED } AttemptResult;

/* --- exceptions and results -------------------------------------------------------------------- */

#if PY_VERSION_HEX < 0x030C0000
static inline PyObject *PyErr_GetRaisedException(void) {
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
}

static inline void PyErr_SetRaisedException(PyObject *error) {
    PyObject *type = error != NULL ? Py_NewRef(Py_TYPE(error)) : NULL;
    PyErr_Restore(type, error, error != NULL ? PyException_GetTraceback(error) : NULL);
}
#endif

/* Raise an exception that was just made, whose reference is taken; NULL: its making has raised. */
static inline PyObject *raise_new(PyObject *error) {
    if (error != NULL)
        PyErr_SetRaisedException(error);
    return NULL;
}

/* Drop the result of a call: whether there was one. */
static inline bool answered(PyObject *answer) {
    Py_XDECREF(answer);
    return answer != NULL;
}

/* The truth of a result, which is dropped: -1 if there was none. */
static inline int truth(PyObject *answer) {
    int true_or_false = answer != NULL ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return true_or_false;
}

static int raise_kept(void *error) {
    PyErr_SetRaisedException(error);
    return -1;
}

/* The exception that is set must not stop a value or a wake-up. If it is no `Exception` (the
 * KeyboardInterrupt of a signal handler), the main thread raises it as soon as it runs Python again;
 * any other goes to `sys.unraisablehook`. */
static COLD void raise_soon(State *state, PyObject *where) {
    PyObject *error = PyErr_GetRaisedException();
    bool interrupt = !PyErr_GivenExceptionMatches(error, PyExc_Exception) &&
                     PyInterpreterState_Get() == PyInterpreterState_Main() &&
                     truth(PyObject_CallNoArgs(state->is_main_thread)) == 1;
    PyErr_Clear();
    if (interrupt && Py_AddPendingCall(raise_kept, error) == 0)
        return;
    PyErr_SetRaisedException(error);
    PyErr_WriteUnraisable(where);
}

/* Keep an object that is being deallocated, for a free list, which has its one reference. It stays
 * tracked by the collector: to track and untrack it each time would cost more. */
static inline void revive(PyObject *object) {
#ifdef Py_REF_DEBUG
    _Py_NewReference(object);
#else
    Py_SET_REFCNT(object, 1);
#endif
}

/* For fields that follow each other and are all references. */
#define VISIT_ALL(first, last)                                                                      \
    for (PyObject **each = (PyObject **)&(first); each <= (PyObject **)&(last); each++)             \
    Py_VISIT(*each)
#define CLEAR_ALL(first, last)                                                                      \
    for (PyObject **each = (PyObject **)&(first); each <= (PyObject **)&(last); each++)             \
    Py_CLEAR(*each)

/* --- small questions ---------------------------------------------------------------------------- */

static struct PyModuleDef native_module;

static inline State *state_of(PyObject *self) {
    return (State *)PyModule_GetState(PyType_GetModuleByDef(Py_TYPE(self), &native_module));
}

/* The scheduler that is in a step in this thread, or NULL. */
static inline Scheduler *active_here(State *state) {
    Scheduler *scheduler = state->active;
    return scheduler != NULL && scheduler->thread == PyThreadState_Get() ? scheduler : NULL;
}

static inline Waiter *waiter_of(Operation *operation) {
    return operation->select != NULL ? (Waiter *)operation->select : &operation->base;
}

static inline bool receives(Operation *operation) {
    return (operation->base.kind & 1) == 0;
}

static inline bool sends(Operation *operation) {
    return operation->base.kind == SEND || operation->base.kind == SEND_MANY;
}

static inline bool is_waiter(State *state, PyObject *object) {
    return Py_IS_TYPE(object, state->Operation) || PyObject_TypeCheck(object, state->Waiter);
}

/* Whether the next operation must first yield to the scheduler. */
static inline bool budget_is_spent(State *state) {
    if (LIKELY(state->budget > 0))
        return false;
    state->budget = OPERATIONS_BUDGET;
    return true;
}

/* What most types do to free an object. */
static NEVER_INLINE void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    type->tp_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* --- used before they are defined --------------------------------------------------------------- */

static ALWAYS_INLINE void scheduler_push(Scheduler *scheduler, PyObject *item);
static ALWAYS_INLINE int actor_resume(Actor *actor);
static void select_leave(Select *select, Operation *winner);
static PyObject *recv_many_take_value(Operation *self);

#endif
