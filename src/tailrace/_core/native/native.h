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
 *   out of every line it stands in, so nobody who is claimed is ever in line for a peer.
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

/* LIKELY says which way a hop goes: without it the compiler lays out the turn for what hardly ever
 * happens, which costs a hop in twelve. */
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

#include "docs.h"
#include "inside.h"

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
typedef struct Sleeper Sleeper;
typedef struct Operation Operation;
typedef struct Select Select;
typedef struct Channel Channel;
typedef struct Actor Actor;

/* How far an operation or select has come, and what woke it: as in `sleeping.py`. */
enum { FRESH, BEGUN, YIELDED, PARKED, SPENT };
enum { UNCLAIMED, HAPPENED, LOOK_AGAIN, TIMED_OUT, CANCELLED };
/* Why an operation is not for the free list: it has a scheduler, for now; or for other reasons. */
enum { FOR_A_TASK = 1, FOR_GOOD = 2 };
/* Who sleeps: an actor of ours, a task of any other kind, a thread; nobody yet. */
enum { NOBODY, ACTOR, TASK, THREAD };
/* What it does. Of operations the even ones receive. */
enum { RECV = 0, SEND = 1, NEXT = 2, SEND_MANY = 3, RECV_MANY = 4, DONE = 5, SELECT = 6 };
enum { BLOCK, DROP_NEWEST, DROP_OLDEST }; /* in the order of `common.Overflow` */

/* What sleeps: the common beginning of Operation and Select. As long as it is parked it is just
 * enough of a future for any task to await. */
struct Sleeper {
    PyObject_HEAD
    State *state;
    Scheduler *scheduler; /* of the loop that resumes an actor or other task */
    PyObject *driver;     /* an Actor; the callback of another task; the lock that a thread waits on */
    PyObject *context;    /* in which that callback is called */
    PyObject *messages;   /* list: one for each time its task was cancelled while it slept here */
    union {
        double since;      /* while it sleeps: the loop's time at which it was parked */
        Py_ssize_t ticket; /* of a receive that happened: under which its value was handed over */
    };
    uint8_t phase, claim, party;
    uint8_t encumbered;   /* holds more than a channel and a value: not for the free list as it is */
    bool blocking;        /* _asyncio_future_blocking; of a `done` case: whether it is done */
    uint8_t kind;         /* what it does */
    bool busy;            /* in a step: code of others that runs in it must not drive it */
};

/* Parked operations, or such as were cancelled and hold the value that they give back. */
typedef struct {
    Operation *head, *tail;
    Py_ssize_t count;
} Queue;

struct Operation {
    Sleeper base;
    Channel *channel; /* NULL for DONE, and where it has given its value back */
    PyObject *value;  /* to be sent, or received */
    Select *select;   /* as one of whose cases it is parked */
    PyObject *values; /* SEND_MANY: where they come from */
    Py_ssize_t count; /* RECV_MANY: how many at most; SEND_MANY: how many were sent */
    Queue *line;      /* in which it stands, and which has a reference to it */
    Operation *next, *prev;
};

struct Select {
    Sleeper base;
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

/* Nothing here keeps the loop alive: a closed loop is freed with its last user, as with asyncio's own
 * tasks. `State.schedulers` keeps the scheduler as long as the loop lives. */
struct Scheduler {
    PyObject_HEAD
    State *state;
    PyObject *loop;         /* borrowed; NULL once the loop was freed: see `take_loop` */
    PyObject *alive;        /* weak reference to the loop, whose callback clears `loop` */
    PyObject *clock;        /* which `loop.time` reads; NULL: it is asked itself */
    PyObject *context;      /* in which the loop calls back: an empty one */
    PyObject *on_quiet;     /* called, once, when nobody is ready any more; mostly NULL */
    Ring ready;             /* actors and other parties to be resumed, each a reference */
    PyThreadState *thread;  /* which is in a step of this scheduler's */
    PyObject *current;      /* borrowed: the actor that is the loop's current task */
    double now;             /* the loop's time as read in this turn; negative: not yet */
    Py_ssize_t place;       /* where asyncio's dictionary of current tasks has this loop's */
    int steps;              /* of this turn */
    int stride;             /* how many steps go by between two looks at the clock */
    int look;               /* how many are left until the next one */
    Py_ssize_t resumed, owed; /* how many were; how many must have been when the next turn ends */
    bool scheduled;         /* `run` is on its way, or running */
    bool turning;           /* `run` is running */
    bool again;             /* and on its way once more: see `scheduler_keep_order` */
    bool timeless;          /* a virtual clock: only the count bounds a turn */
};

/* What the loop calls for one turn. Until then it owns the ready, so that a loop that is closed before
 * lets go of them when it drops the call. */
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
    /* What a step looks at: one line of the processor's cache. */
    sendfunc send_value;       /* the coroutine's, where it has one */
    int cancelling;
    bool parked, begun, must_cancel, ended, log_destroy_pending;
    Scheduler *scheduler;
    PyObject *coroutine, *context;
    PyObject *waiting;         /* what it sleeps in: a Sleeper where `parked`, else any future */
    PyObject *thrown;          /* what is raised in it when it is resumed */
    PyObject *after;           /* called when it has resumed from a send: see `when_sent` */
    /* The rest. */
    PyObject *name;
    PyObject *cancel_message;
    PyObject *cancelled_error; /* that ended it */
    PyObject *on_end;          /* called with it when it has ended */
    Py_ssize_t number;         /* of several of one name; 0 for none */
};

/* What is written in Python or found by Python, and given by `bind` under these names. */
#define PARTS(X)                                                                                    \
    X(Closed) X(WouldBlock) X(CancelledError) X(rearmed) X(warn_unused) X(warn_lost)                \
    X(refuse_again) X(refuse_case) X(refuse_waiting) X(wait_for) X(select_options)                  \
    X(select_nowait_options) X(wake_after) X(schedulers) X(parts_of) X(Task) X(random_bits)         \
    X(monotonic) X(is_main_thread) X(note_tasks) X(current_tasks) X(swap_current_task)              \
    X(discard_awaited_by) X(get_running_loop)                                                       \
    X(future_cancel) X(future_set_result) X(future_set_exception)

/* Names of attributes, kept as strings. */
#define NAMES(X)                                                                                    \
    X(result) X(cancel) X(throw) X(release) X(_ready) X(_watch) X(_withdraw) X(_finish)             \
    X(overflow) X(__discarded__) X(msg) X(context) X(loop) X(call_soon) X(call_soon_threadsafe)         \
    X(is_closed) X(get_debug) X(time)

#define DECLARE(name) PyObject *name;
#define DECLARE_NAME(name) PyObject *str_##name;

struct State {
    /* References, all that there are, down to `stop_iteration`. */
    PyTypeObject *Channel, *Sleeper, *Operation, *SendMany, *RecvMany, *Select, *Scheduler, *Turn,
        *Actor;
    PyTypeObject *Future; /* asyncio's */
    PARTS(DECLARE)
    NAMES(DECLARE_NAME)
    PyObject *empty_tuple, *msg_names, *context_names;
    PyObject *future_arguments; /* dict: what a Future is made with; its loop is put in each time */
    PyObject *no_result;      /* what a sleeper that happened has as its `result` */
    PyObject *stop_iteration; /* reused, see `hand_out` */
    Py_ssize_t budget;
    Scheduler *active;        /* borrowed: the scheduler that stepped last; see `active_here` */
    Scheduler *latest;        /* borrowed: the one asked for last */
    uint64_t dice;
    Operation *free[FREE_OPERATIONS];
    int free_count;
};

/* What an atomic section leaves to be done after it. */
typedef struct {
    Operation *woken;    /* a reference: the peer that was claimed */
    PyObject *discarded; /* a reference: dropped by an overflow policy */
    Operation *emptied;  /* a reference: it had given back the value that was taken */
    bool asked;          /* code of others ran, and what was seen before it may be stale */
} Effects;

/* What an attempt says. */
typedef enum { FAILED = -1, PENDING, SUCCESS, CLOSED } Verdict;

/* --- references and exceptions, on every version ---------------------------------------------- */

static inline PyObject *take_exception(void) {
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

static inline void raise_exception(PyObject *error) { /* takes the reference; NULL raises nothing */
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyObject *type = error != NULL ? Py_NewRef(Py_TYPE(error)) : NULL;
    PyErr_Restore(type, error, error != NULL ? PyException_GetTraceback(error) : NULL);
#endif
}

/* Drop the answer of a call: whether there was one. */
static inline bool answered(PyObject *answer) {
    Py_XDECREF(answer);
    return answer != NULL;
}

/* The truth of an answer, which is dropped: -1 if there was none. */
static inline int truth(PyObject *answer) {
    int true_or_false = answer != NULL ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return true_or_false;
}

static int raise_kept(void *error) {
    raise_exception(error);
    return -1;
}

/* What is set as an exception must not keep a value or a waiter from its way. What is no `Exception`
 * (a signal handler's KeyboardInterrupt) is raised in the main thread as soon as that runs Python
 * again; all else is nobody's business, and `sys.unraisablehook` gets it. */
static COLD void raise_soon(State *state, PyObject *where) {
    PyObject *error = take_exception();
    bool interrupt = !PyErr_GivenExceptionMatches(error, PyExc_Exception) &&
                     PyInterpreterState_Get() == PyInterpreterState_Main() &&
                     truth(PyObject_CallNoArgs(state->is_main_thread)) == 1;
    PyErr_Clear();
    if (interrupt && Py_AddPendingCall(raise_kept, error) == 0)
        return;
    raise_exception(error);
    PyErr_WriteUnraisable(where);
}

/* Keep an object that is being deallocated, for a free list: with one reference, which is the
 * list's, and still known to the collector, which so need not be told of it again and again. */
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

/* --- small things that everybody asks ---------------------------------------------------------- */

static struct PyModuleDef native_module;

static inline State *state_of(PyObject *self) {
    return (State *)PyModule_GetState(PyType_GetModuleByDef(Py_TYPE(self), &native_module));
}

/* The scheduler that is in a step in this thread, or NULL. */
static inline Scheduler *active_here(State *state) {
    Scheduler *scheduler = state->active;
    return scheduler != NULL && scheduler->thread == PyThreadState_Get() ? scheduler : NULL;
}

static inline Sleeper *sleeper_of(Operation *operation) {
    return operation->select != NULL ? (Sleeper *)operation->select : &operation->base;
}

static inline bool receives(Operation *operation) {
    return (operation->base.kind & 1) == 0;
}

static inline bool sends(Operation *operation) {
    return operation->base.kind == SEND || operation->base.kind == SEND_MANY;
}

static inline bool is_operation(State *state, PyObject *object) {
    return Py_IS_TYPE(object, state->Operation) || PyObject_TypeCheck(object, state->Operation);
}

static inline bool is_sleeper(State *state, PyObject *object) {
    return Py_IS_TYPE(object, state->Operation) || PyObject_TypeCheck(object, state->Sleeper);
}

static inline bool is_actor(State *state, PyObject *object) {
    return Py_IS_TYPE(object, state->Actor) || PyObject_TypeCheck(object, state->Actor);
}

/* Whether the next operation must first yield to the scheduler. */
static inline bool budget_is_spent(State *state) {
    if (LIKELY(state->budget > 0))
        return false;
    state->budget = OPERATIONS_BUDGET;
    return true;
}

/* --- what is asked for before it is defined ----------------------------------------------------- */

static PyObject *running_loop(State *state);
static bool is_reachable(Scheduler *scheduler);
static PyObject *take_loop(Scheduler *scheduler);
static Scheduler *scheduler_here(State *state);
static PyObject *turn_make(Scheduler *scheduler);
static double scheduler_now(Scheduler *scheduler);
static ALWAYS_INLINE void scheduler_push(Scheduler *scheduler, PyObject *item);
static void scheduler_push_yielded(Scheduler *scheduler, PyObject *item);
static ALWAYS_INLINE int actor_resume(Actor *actor);
static void sleeper_clear(Sleeper *sleeper);
static int sleeper_traverse(Sleeper *sleeper, visitproc visit, void *arg);
static void sleeper_finalize(PyObject *self);
static void unpark(Sleeper *sleeper, uint8_t phase);
static PySendResult yield_itself(Sleeper *sleeper, PyObject **result);
static PySendResult yield_for_others(Sleeper *sleeper, PyObject **result);
static void undo(Operation *winner);
static PyObject *sleeper_await(Sleeper *self);
static PyObject *sleeper_iternext(PyObject *self);
static PySendResult sleeper_send(PyObject *self, PyObject *arg, PyObject **result);
static void select_leave(Select *select, Operation *winner);
static PyObject *recv_many_outcome(Operation *self);

#endif
