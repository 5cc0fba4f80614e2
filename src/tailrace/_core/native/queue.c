/* Rings that hold references; lines of parked operations, first in, first out; claims and wake-ups.
 *
 * Invariants
 * - An operation stands in at most one line; the line holds one reference to it.
 * - Everybody in line to send or receive is unclaimed: `claim` takes a sleeper out of all its lines.
 *   Who stands in the line of returned values was claimed, and holds one.
 * - Leaving is O(1), from anywhere.
 */
#include "native.h"

/* --- rings ------------------------------------------------------------------------------------ */

static COLD bool ring_grow(Ring *ring) {
    Py_ssize_t size = ring->size != 0 ? 2 * ring->size : 8;
    PyObject **items = PyMem_New(PyObject *, size);
    if (items == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t n = 0; n < ring->count; n++)
        items[n] = ring->items[(ring->head + n) & (ring->size - 1)];
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

/* How many of `count` items stand in one piece from the place `at` on. */
static inline Py_ssize_t ring_piece(Ring *ring, Py_ssize_t at, Py_ssize_t count) {
    return Py_MIN(count, ring->size - (at & (ring->size - 1)));
}

/* The same for several, whose references move as they are. */
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
        Py_VISIT(ring->items[(ring->head + n) & (ring->size - 1)]);
    return 0;
}

/* --- lines ------------------------------------------------------------------------------------ */

/* Have it stand before `next`, or at the end; the line takes a reference of its own. */
static ALWAYS_INLINE void queue_insert(Queue *queue, Operation *operation, Operation *next) {
    Operation *prev = next != NULL ? next->prev : queue->tail;
    *(prev != NULL ? &prev->next : &queue->head) = operation;
    *(next != NULL ? &next->prev : &queue->tail) = operation;
    operation->prev = prev;
    operation->next = next;
    operation->line = queue;
    queue->count++;
    Py_INCREF(operation);
}

static ALWAYS_INLINE void leave_line(Operation *operation) { /* the line's reference is the caller's */
    Queue *line = operation->line;
    Operation *prev = operation->prev, *next = operation->next;
    *(prev != NULL ? &prev->next : &line->head) = next;
    *(next != NULL ? &next->prev : &line->tail) = prev;
    operation->line = NULL;
    operation->next = operation->prev = NULL;
    line->count--;
}

static void queue_clear(Queue *queue) {
    Operation *first;
    while ((first = queue->head) != NULL) {
        leave_line(first);
        Py_DECREF(first);
    }
}

static int queue_traverse(Queue *queue, visitproc visit, void *arg) {
    for (Operation *each = queue->head; each != NULL; each = each->next)
        Py_VISIT(each);
    return 0;
}

/* --- claims ----------------------------------------------------------------------------------- */

/* Take a sleeper for `how`, unless it is taken: atomic. The references of its lines to it are
 * dropped, all but that of the winner, who was taken out of line by its peer. */
static NEVER_INLINE bool claim(Sleeper *sleeper, uint8_t how, Operation *winner) {
    if (sleeper->claim != UNCLAIMED)
        return false;
    sleeper->claim = how;
    if (sleeper->kind == SELECT)
        select_leave((Select *)sleeper, winner);
    else if (((Operation *)sleeper)->line != NULL) {
        leave_line((Operation *)sleeper);
        Py_DECREF(sleeper); /* frees nothing: the caller has one */
    }
    return true;
}

/* Claim the first in line, who was vetted; its reference is the caller's. NULL if there is none. */
static inline Operation *claim_head(Queue *queue) {
    Operation *first = queue->head;
    if (first == NULL)
        return NULL;
    leave_line(first);
    if (UNLIKELY(first->select != NULL))
        claim((Sleeper *)first->select, HAPPENED, first);
    else
        first->base.claim = HAPPENED;
    return first;
}

/* Claim everybody in line, to look again; chained by `next`, before `rest`. */
static Operation *claim_all(Queue *queue, Operation *rest) {
    Operation *last;
    while ((last = queue->tail) != NULL) {
        leave_line(last);
        claim(sleeper_of(last), LOOK_AGAIN, last); /* by which it is woken */
        last->next = rest;
        rest = last;
    }
    return rest;
}

static bool is_within_reach(State *state, Sleeper *sleeper) {
    if (sleeper->party != ACTOR && sleeper->party != TASK)
        return true; /* a thread; or nobody yet, who will look when it comes */
    return sleeper->scheduler->loop == running_loop(state);
}

/* See to it that the first in line can be claimed: those whose loop was closed are dropped.
 * True if a loop had to be asked, so that what was looked at before may have changed. When it
 * returns, no code of others has run since the last look at this line. */
static bool queue_vet_first(State *state, Queue *queue) {
    bool asked = false;
    Operation *first;
    while ((first = queue->head) != NULL && !is_within_reach(state, sleeper_of(first))) {
        Py_INCREF(first);
        asked = true;
        bool reachable = is_reachable(sleeper_of(first)->scheduler);
        bool still = queue->head == first;
        if (still && !reachable) {
            leave_line(first);
            Py_DECREF(first);
        }
        Py_DECREF(first); /* frees nothing where it is still in line */
        if (still && reachable)
            break;
    }
    return asked;
}

/* The same, at once for an actor of the loop that is in a step here. */
static inline bool queue_vet(State *state, Queue *queue) {
    if (queue->head == NULL)
        return false;
    Sleeper *sleeper = sleeper_of(queue->head);
    if (LIKELY(sleeper->party == ACTOR && sleeper->scheduler == active_here(state)))
        return false;
    return queue_vet_first(state, queue);
}

/* How many in line could still be claimed; -1 with an error set. */
static Py_ssize_t queue_waiting(State *state, Queue *queue) {
    Py_ssize_t waiting = 0;
    PyObject *parked = PyList_New(0); /* as the line may change while loops are asked */
    for (Operation *each = queue->head; parked != NULL && each != NULL; each = each->next)
        if (PyList_Append(parked, (PyObject *)each) < 0)
            Py_CLEAR(parked);
    if (parked == NULL)
        return -1;
    for (Py_ssize_t n = PyList_GET_SIZE(parked); n-- > 0;) {
        Sleeper *sleeper = sleeper_of((Operation *)PyList_GET_ITEM(parked, n));
        waiting += is_within_reach(state, sleeper) || is_reachable(sleeper->scheduler);
    }
    Py_DECREF(parked);
    return waiting;
}

/* --- wake-ups --------------------------------------------------------------------------------- */

/* Have the driver of a claimed sleeper resumed. */
static inline void wake_sleeper(Sleeper *sleeper) {
    PyObject *driver = sleeper->driver;
    Scheduler *scheduler = sleeper->scheduler;
    switch (sleeper->party) {
    case ACTOR: /* the driver's reference goes into the ring; it has one to the scheduler */
        sleeper->driver = NULL;
        sleeper->scheduler = NULL;
        sleeper->party = NOBODY;
        scheduler_push(scheduler, driver);
        Py_DECREF(scheduler);
        break;
    case TASK:
        scheduler_push(scheduler, Py_NewRef(sleeper));
        break;
    case THREAD:
        if (!answered(PyObject_CallMethodNoArgs(driver, sleeper->state->str_release)))
            PyErr_WriteUnraisable(driver);
        break;
    default: /* nobody yet */
        break;
    }
}

/* Wake the party of a peer that was claimed; takes the reference to it. */
static inline void wake(Operation *operation) {
    wake_sleeper(sleeper_of(operation));
    Py_DECREF(operation);
}

/* Claim it by something that is no operation of a peer. */
static bool claim_and_wake(Sleeper *sleeper, uint8_t how, Operation *winner) {
    if (sleeper->phase != PARKED || !claim(sleeper, how, winner))
        return false;
    wake_sleeper(sleeper);
    return true;
}

/* Tell a value that an overflow policy dropped (and whose reference is taken), if it wants to know. */
static NEVER_INLINE void pay_discarded(State *state, PyObject *value) {
    PyObject *told = PyObject_GetAttr((PyObject *)Py_TYPE(value), state->str___discarded__);
    if (told == NULL)
        PyErr_Clear();
    else if (!answered(PyObject_CallFunctionObjArgs(told, value, state->str_overflow, NULL)))
        raise_soon(state, told);
    Py_XDECREF(told);
    Py_DECREF(value);
}

/* Do what an atomic section left to be done. */
static inline void pay(State *state, Effects *effects) {
    if (effects->woken != NULL)
        wake(effects->woken);
    if (UNLIKELY(effects->discarded != NULL))
        pay_discarded(state, effects->discarded);
    Py_XDECREF(effects->emptied);
}
