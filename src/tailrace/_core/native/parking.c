/* Parking: rings of references; queues of parked operations, first in, first out; claims and wake-ups.
 *
 * Invariants
 * - An operation is in at most one queue, which holds one reference to it.
 * - An operation in a queue of senders or receivers is unclaimed: `claim` removes a waiter from all
 *   its queues. One in the queue of returned values was claimed, and holds the value.
 * - An operation leaves in O(1), from anywhere in the queue.
 */
#include "native.h"

/* --- rings ------------------------------------------------------------------------------------ */

static inline PyObject *ring_at(Ring *ring, Py_ssize_t n) { /* the n-th item, borrowed */
    return ring->items[(ring->head + n) & (ring->size - 1)];
}

static COLD bool ring_grow(Ring *ring) {
    Py_ssize_t size = ring->size != 0 ? 2 * ring->size : 8;
    PyObject **items = PyMem_New(PyObject *, size);
    if (items == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t n = 0; n < ring->count; n++)
        items[n] = ring_at(ring, n);
    PyMem_Free(ring->items);
    *ring = (Ring){.items = items, .count = ring->count, .size = size};
    return true;
}

static inline bool ring_has_room(Ring *ring) {
    return LIKELY(ring->count < ring->size) || ring_grow(ring);
}

static inline void ring_push(Ring *ring, PyObject *item) { /* takes the reference; there is room */
    ring->items[(ring->head + ring->count++) & (ring->size - 1)] = item;
}

static inline PyObject *ring_pop(Ring *ring) { /* not empty; the reference is the caller's */
    PyObject *item = ring->items[ring->head];
    ring->head = (ring->head + 1) & (ring->size - 1);
    ring->count--;
    return item;
}

/* How many of `count` items are contiguous from index `at` on. */
static inline Py_ssize_t ring_piece(Ring *ring, Py_ssize_t at, Py_ssize_t count) {
    return Py_MIN(count, ring->size - (at & (ring->size - 1)));
}

/* The same for several items; their references move. */
static void ring_push_many(Ring *ring, PyObject **items, Py_ssize_t count) {
    Py_ssize_t at = (ring->head + ring->count) & (ring->size - 1);
    Py_ssize_t piece = ring_piece(ring, at, count);
    memcpy(ring->items + at, items, (size_t)piece * sizeof(*items));
    memcpy(ring->items, items + piece, (size_t)(count - piece) * sizeof(*items));
    ring->count += count;
}

static void ring_pop_many(Ring *ring, PyObject **items, Py_ssize_t count) {
    Py_ssize_t piece = ring_piece(ring, ring->head, count);
    memcpy(items, ring->items + ring->head, (size_t)piece * sizeof(*items));
    memcpy(items + piece, ring->items, (size_t)(count - piece) * sizeof(*items));
    ring->head = (ring->head + count) & (ring->size - 1);
    ring->count -= count;
}

static void ring_clear(Ring *ring) {
    while (ring->count > 0)
        Py_DECREF(ring_pop(ring));
    PyMem_Free(ring->items);
    *ring = (Ring){NULL};
}

static int ring_traverse(Ring *ring, visitproc visit, void *arg) {
    for (Py_ssize_t n = 0; n < ring->count; n++)
        Py_VISIT(ring_at(ring, n));
    return 0;
}

/* --- queues ----------------------------------------------------------------------------------- */

/* Insert before `next`, or at the end; the queue takes a reference of its own. */
static ALWAYS_INLINE void queue_insert(Queue *queue, Operation *operation, Operation *next) {
    Operation *prev = next != NULL ? next->prev : queue->tail;
    *(prev != NULL ? &prev->next : &queue->head) = operation;
    *(next != NULL ? &next->prev : &queue->tail) = operation;
    operation->prev = prev;
    operation->next = next;
    operation->queue = queue;
    queue->count++;
    Py_INCREF(operation);
}

static ALWAYS_INLINE void leave_queue(Operation *operation) { /* the queue's reference is now the caller's */
    Queue *queue = operation->queue;
    Operation *prev = operation->prev, *next = operation->next;
    *(prev != NULL ? &prev->next : &queue->head) = next;
    *(next != NULL ? &next->prev : &queue->tail) = prev;
    operation->queue = NULL;
    operation->next = operation->prev = NULL;
    queue->count--;
}

static void queue_clear(Queue *queue) {
    Operation *first;
    while ((first = queue->head) != NULL) {
        leave_queue(first);
        Py_DECREF(first);
    }
}

static int queue_traverse(Queue *queue, visitproc visit, void *arg) {
    for (Operation *each = queue->head; each != NULL; each = each->next)
        Py_VISIT(each);
    return 0;
}

/* --- waiters -------------------------------------------------------------------------------------- */

static void waiter_clear(Waiter *waiter) {
    waiter->driver_kind = NO_DRIVER;
    CLEAR_ALL(waiter->scheduler, waiter->cancel_messages);
}

/* As if it had never been parked. */
static void unpark(Waiter *waiter, uint8_t phase) {
    waiter_clear(waiter);
    waiter->phase = phase;
    waiter->claim = UNCLAIMED;
    waiter->ticket = 0;
}

static PySendResult yield_itself(Waiter *waiter, PyObject **result) {
    waiter->blocking = true;
    *result = Py_NewRef(waiter);
    return PYGEN_NEXT;
}

/* The budget is spent: its driver goes to the back of `ready`. */
static NEVER_INLINE PySendResult yield_for_others(Waiter *waiter, PyObject **result) {
    if (running_loop(waiter->state) != NULL)
        return yield_itself(waiter, result);
    *result = Py_NewRef(Py_None);
    return PYGEN_NEXT;
}

/* --- claims ----------------------------------------------------------------------------------- */

/* Claim a waiter for `how`; false if it was claimed. Atomic. Drops the references of its queues, but
 * not of the winner, which its peer has removed from its queue. */
static NEVER_INLINE bool claim(Waiter *waiter, uint8_t how, Operation *winner) {
    if (waiter->claim != UNCLAIMED)
        return false;
    waiter->claim = how;
    if (waiter->kind == SELECT)
        select_leave((Select *)waiter, winner);
    else if (((Operation *)waiter)->queue != NULL) {
        leave_queue((Operation *)waiter);
        Py_DECREF(waiter); /* frees nothing: the caller has one */
    }
    return true;
}

/* Claim the first operation, which is reachable; its reference is now the caller's. NULL: none. */
static inline Operation *claim_first(Queue *queue) {
    Operation *first = queue->head;
    if (first == NULL)
        return NULL;
    leave_queue(first);
    if (UNLIKELY(first->select != NULL))
        claim((Waiter *)first->select, HAPPENED, first);
    else
        first->base.claim = HAPPENED;
    return first;
}

/* Claim all, to attempt again; chained by `next`, before `rest`. */
static Operation *claim_all(Queue *queue, Operation *rest) {
    Operation *last;
    while ((last = queue->tail) != NULL) {
        leave_queue(last);
        claim(waiter_of(last), ATTEMPT_AGAIN, last); /* it is woken by this reference */
        last->next = rest;
        rest = last;
    }
    return rest;
}

static bool is_within_reach(State *state, Waiter *waiter) {
    if (waiter->driver_kind != ACTOR && waiter->driver_kind != TASK)
        return true; /* a thread; or nothing yet: the driver looks at the claim when it comes */
    return waiter->scheduler->loop == running_loop(state);
}

/* Make the first operation one that can be claimed: drop those whose loop was closed. True if a loop
 * was asked, which is user code: what was read before may have changed. When this returns, no user
 * code has run since the last look at this queue. */
static bool skip_unreachable(State *state, Queue *queue) {
    bool user_code_ran = false;
    Operation *first;
    while ((first = queue->head) != NULL && !is_within_reach(state, waiter_of(first))) {
        Py_INCREF(first);
        user_code_ran = true;
        bool reachable = is_reachable(waiter_of(first)->scheduler);
        bool still = queue->head == first;
        if (still && !reachable) {
            leave_queue(first);
            Py_DECREF(first);
        }
        Py_DECREF(first); /* frees nothing if it is still in the queue */
        if (still && reachable)
            break;
    }
    return user_code_ran;
}

/* The same; a short way for an actor of the loop that is in a step here. */
static inline bool queue_skip_unreachable(State *state, Queue *queue) {
    if (queue->head == NULL)
        return false;
    Waiter *waiter = waiter_of(queue->head);
    if (LIKELY(waiter->driver_kind == ACTOR && waiter->scheduler == active_here(state)))
        return false;
    return skip_unreachable(state, queue);
}

/* How many could be claimed. If one leaves while its loop is asked, they are counted anew. */
static Py_ssize_t queue_waiting(State *state, Queue *queue) {
    Py_ssize_t waiting = 0;
    for (Operation *each = queue->head, *next; each != NULL; each = next) {
        Py_INCREF(each);
        Waiter *waiter = waiter_of(each);
        waiting += is_within_reach(state, waiter) || is_reachable(waiter->scheduler);
        bool left = each->queue != queue;
        next = each->next;
        Py_DECREF(each); /* frees nothing if it is still in the queue */
        next = left ? queue->head : next;
        waiting = left ? 0 : waiting;
    }
    return waiting;
}

/* --- wake-ups --------------------------------------------------------------------------------- */

/* Have the driver of a claimed waiter resumed. */
static inline void wake_waiter(Waiter *waiter) {
    PyObject *driver = waiter->driver;
    Scheduler *scheduler = waiter->scheduler;
    switch (waiter->driver_kind) {
    case ACTOR: /* the reference to the driver moves into the ring; the driver has one to the scheduler */
        waiter->driver = NULL;
        waiter->scheduler = NULL;
        waiter->driver_kind = NO_DRIVER;
        scheduler_push(scheduler, driver);
        Py_DECREF(scheduler);
        break;
    case TASK:
        scheduler_push(scheduler, Py_NewRef(waiter));
        break;
    case THREAD:
        if (!answered(PyObject_CallMethodNoArgs(driver, waiter->state->str_release)))
            PyErr_WriteUnraisable(driver);
        break;
    default: /* nothing yet */
        break;
    }
}

/* Wake a peer that was claimed; takes the reference to it. */
static inline void wake(Operation *operation) {
    wake_waiter(waiter_of(operation));
    Py_DECREF(operation);
}

/* Claim it for something other than a peer, and wake it. */
static bool claim_and_wake(Waiter *waiter, uint8_t how, Operation *winner) {
    if (waiter->phase != PARKED || !claim(waiter, how, winner))
        return false;
    wake_waiter(waiter);
    return true;
}

/* Have a task whose budget is spent resumed. Its step may have taken long, so the clock is read after
 * it. */
static void scheduler_push_yielded(Scheduler *self, PyObject *item) {
    self->steps += YIELD_STEPS;
    self->look = 1;
    scheduler_push(self, item);
}

/* An overflow policy dropped `value`, whose reference is taken. */
static NEVER_INLINE void apply_dropped(State *state, PyObject *value) {
    if (!answered(PyObject_CallOneArg(state->tell_dropped, value)))
        raise_soon(state, value);
    Py_DECREF(value);
}

/* Apply the effects of an atomic section. */
static inline void apply(State *state, Effects *effects) {
    if (effects->claimed != NULL)
        wake(effects->claimed);
    if (UNLIKELY(effects->dropped != NULL))
        apply_dropped(state, effects->dropped);
    Py_XDECREF(effects->emptied);
}
