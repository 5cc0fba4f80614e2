/* Lines of parked operations, first in, first out, and the rings that hold values.
 *
 * Invariants
 * - An operation stands in at most one line; the line holds one reference to it.
 * - Everybody in line is unclaimed: `claim` takes a sleeper out of all its lines.
 * - Leaving is O(1), from anywhere.
 */
#include "native.h"

static void
queue_append(Queue *queue, Operation *operation)
{
    Py_INCREF(operation);
    operation->next = NULL;
    operation->prev = queue->tail;
    if (queue->tail != NULL)
        queue->tail->next = operation;
    else
        queue->head = operation;
    queue->tail = operation;
    operation->base.queued = true;
}

static void
queue_unlink(Queue *queue, Operation *operation)
{
    if (operation->prev != NULL)
        operation->prev->next = operation->next;
    else
        queue->head = operation->next;
    if (operation->next != NULL)
        operation->next->prev = operation->prev;
    else
        queue->tail = operation->prev;
    operation->next = operation->prev = NULL;
    operation->base.queued = false;
}

/* The line that an operation on a channel stands in when it is parked. */
static Queue *
queue_of(Operation *operation)
{
    Channel *channel = operation->channel;
    return receives(operation) ? &channel->receivers : &channel->senders;
}

static bool
is_within_reach(State *state, Sleeper *sleeper)
{
    if (sleeper->party != ACTOR && sleeper->party != TASK)
        return true; /* a thread; or nobody yet, who will look when it comes */
    return scheduler_of_party(sleeper)->loop == running_loop(state);
}

/* See to it that the first in line can be claimed: those whose loop was closed are dropped.
 * True if a loop had to be asked, so that what was looked at before may have changed. When it
 * returns, no code of others has run since the last look at this line. */
static bool
queue_vet_first(State *state, Queue *queue)
{
    bool asked = false;
    Operation *first;
    while ((first = queue->head) != NULL && !is_within_reach(state, sleeper_of(first))) {
        Py_INCREF(first);
        asked = true;
        bool reachable = is_reachable(scheduler_of_party(sleeper_of(first)));
        bool still = queue->head == first && first->base.queued;
        if (still && !reachable) {
            queue_unlink(queue, first);
            Py_DECREF(first);
        }
        Py_DECREF(first); /* frees nothing where it is still in line */
        if (still && reachable)
            break;
    }
    return asked;
}

/* Claim the first in line, who was vetted; its reference is the caller's. NULL if there is none. */
static inline Operation *
claim_head(Queue *queue)
{
    Operation *first = queue->head;
    if (first == NULL)
        return NULL;
    queue_unlink(queue, first);
    if (first->select != NULL)
        claim((Sleeper *)first->select, HAPPENED, first);
    else
        first->base.claim = HAPPENED;
    return first;
}

/* How many in line could still be claimed. */
static Py_ssize_t
queue_waiting(State *state, Queue *queue)
{
    Py_ssize_t waiting = 0;
    PyObject *parked = PyList_New(0); /* as the line may change while loops are asked */
    for (Operation *each = queue->head; parked != NULL && each != NULL; each = each->next)
        if (PyList_Append(parked, (PyObject *)each) < 0)
            Py_CLEAR(parked);
    if (parked == NULL)
        return -1;
    for (Py_ssize_t n = PyList_GET_SIZE(parked); n-- > 0;) {
        Sleeper *sleeper = sleeper_of((Operation *)PyList_GET_ITEM(parked, n));
        waiting += is_within_reach(state, sleeper) || is_reachable(scheduler_of_party(sleeper));
    }
    Py_DECREF(parked);
    return waiting;
}

/* --- rings ------------------------------------------------------------------------------------ */

static int
ring_grow(Ring *ring)
{
    Py_ssize_t size = ring->size != 0 ? 2 * ring->size : 8;
    PyObject **items = PyMem_New(PyObject *, size);
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t n = 0; n < ring->count; n++)
        items[n] = ring->items[(ring->head + n) & (ring->size - 1)];
    PyMem_Free(ring->items);
    ring->items = items;
    ring->head = 0;
    ring->size = size;
    return 0;
}

static void
ring_clear(Ring *ring)
{
    while (ring->count > 0)
        Py_DECREF(ring_pop(ring));
    PyMem_Free(ring->items);
    ring->items = NULL;
    ring->size = ring->head = 0;
}

static int
ring_traverse(Ring *ring, visitproc visit, void *arg)
{
    for (Py_ssize_t n = 0; n < ring->count; n++)
        Py_VISIT(ring->items[(ring->head + n) & (ring->size - 1)]);
    return 0;
}
