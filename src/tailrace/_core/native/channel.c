/* Channel: send, receive, give back and close, each facing its opposite.
 *
 * The ends of a channel, their holders and all texts are written in Python, for both cores.
 */
#include "native.h"

/* How many values it holds. */
static inline Py_ssize_t channel_length(Channel *channel) {
    return channel->buffer.count + channel->returned.count;
}

/* --- from a sender to a receiver --------------------------------------------------------------- */

/* Give `value` (whose reference is taken) to the first parked receiver, which is reachable. Returns the
 * receiver, to be woken; NULL, and the reference is not taken, if there is none. */
static ALWAYS_INLINE Operation *hand_over(Channel *channel, PyObject *value, Py_ssize_t ticket) {
    Operation *receiver = claim_first(&channel->receivers);
    if (receiver != NULL) {
        receiver->base.ticket = ticket;
        receiver->value = value;
    }
    return receiver;
}

/* Take the value of the first parked sender, which is reachable; NULL if there is none. */
static ALWAYS_INLINE PyObject *take_over(Channel *channel, Effects *effects) {
    Operation *sender = claim_first(&channel->senders);
    if (sender == NULL)
        return NULL;
    PyObject *value = sender->value;
    sender->value = NULL;
    channel->sent++;
    effects->claimed = sender;
    return value;
}

/* --- send -------------------------------------------------------------------------------------- */

static ALWAYS_INLINE AttemptResult channel_try_send(Operation *operation, Effects *effects) {
    Channel *channel = operation->channel;
    effects->user_code_ran |= queue_skip_unreachable(channel->state, &channel->receivers);
    if (UNLIKELY(channel->closed))
        return CLOSED;
    PyObject *value = operation->value;
    Operation *receiver = hand_over(channel, value, channel->sent + 1);
    if (receiver != NULL) {
        channel->sent++;
        effects->claimed = receiver;
    }
    else if (channel_length(channel) < channel->limit) {
        if (!ring_has_room(&channel->buffer))
            return FAILED;
        ring_push(&channel->buffer, value);
        channel->sent++;
    }
    else if (LIKELY(channel->overflow == BLOCK))
        return WAIT;
    else {
        /* A returned value is never dropped: if nothing is buffered, the new one is. */
        effects->dropped = value;
        if (channel->overflow == DROP_OLDEST && channel->buffer.count > 0) {
            effects->dropped = ring_pop(&channel->buffer);
            ring_push(&channel->buffer, value);
        }
        channel->dropped++;
        channel->sent++;
    }
    operation->value = NULL;
    return SUCCESS;
}

/* --- receive ----------------------------------------------------------------------------------- */

/* After a value was taken: move the value of the first parked sender, which is reachable, into the
 * buffer. */
static ALWAYS_INLINE void refill(Channel *channel, Effects *effects) {
    if (channel->senders.head == NULL || UNLIKELY(channel_length(channel) >= channel->limit))
        return;
    if (ring_has_room(&channel->buffer))
        ring_push(&channel->buffer, take_over(channel, effects));
    else
        PyErr_Clear(); /* no memory now: it moves the next time */
}

/* The oldest returned value; there is one. */
static PyObject *take_returned(Channel *channel, Effects *effects) {
    Operation *first = effects->emptied = channel->returned.head;
    PyObject *value = first->value;
    first->value = NULL;
    leave_queue(first);
    return value;
}

/* The next value, as a reference; NULL, without an error, if there is none. */
static ALWAYS_INLINE PyObject *channel_take(Channel *channel, Effects *effects) {
    effects->user_code_ran |= queue_skip_unreachable(channel->state, &channel->senders);
    PyObject *value;
    if (UNLIKELY(channel->returned.count > 0))
        value = take_returned(channel, effects);
    else if (channel->buffer.count > 0)
        value = ring_pop(&channel->buffer);
    else
        return take_over(channel, effects);
    refill(channel, effects);
    return value;
}

static ALWAYS_INLINE AttemptResult channel_try_receive(Operation *operation, Effects *effects) {
    operation->value = channel_take(operation->channel, effects);
    if (operation->value != NULL)
        return SUCCESS;
    return UNLIKELY(operation->channel->closed) ? CLOSED : WAIT;
}

/* The oldest returned value, if it is older than this ticket. */
static PyObject *channel_take_before(Channel *channel, Py_ssize_t ticket, Effects *effects) {
    queue_skip_unreachable(channel->state, &channel->senders);
    if (channel->returned.count == 0 || channel->returned.head->base.ticket >= ticket)
        return NULL;
    PyObject *value = take_returned(channel, effects);
    refill(channel, effects);
    return value;
}

/* --- give back --------------------------------------------------------------------------------- */

/* A receive that was cancelled gives its value back: to the next parked receiver, or to its place in
 * the order. There the operation itself is kept, and does not keep the channel alive. */
static void give_back(Operation *operation) {
    Channel *channel = operation->channel;
    queue_skip_unreachable(channel->state, &channel->receivers);
    Operation *receiver = hand_over(channel, operation->value, operation->base.ticket);
    if (receiver != NULL) {
        operation->value = NULL;
        wake(receiver);
        return;
    }
    Operation *older = channel->returned.tail;
    while (older != NULL && older->base.ticket > operation->base.ticket)
        older = older->prev;
    queue_insert(&channel->returned, operation, older != NULL ? older->next : channel->returned.head);
    Py_CLEAR(operation->channel);
}

/* Give a received value back; count the value that a `send_many` has sent. */
static void undo(Operation *winner) {
    if (winner->base.kind == SEND_MANY)
        winner->count++;
    if (winner->base.kind != DONE && receives(winner) && winner->value != NULL)
        give_back(winner);
}

/* --- close ------------------------------------------------------------------------------------- */

/* A new `Closed`; NULL with an error set. */
static PyObject *closed_error(Channel *channel) {
    return PyObject_CallOneArg(channel->state->closed_error, (PyObject *)channel);
}

static PyObject *channel_close(Channel *self, PyObject *cause) {
    if (self->closed)
        Py_RETURN_FALSE;
    self->closed = true;
    if (!Py_IsNone(cause))
        self->cause = Py_NewRef(cause);
    Operation *woken = claim_all(&self->receivers, claim_all(&self->senders, NULL));
    while (woken != NULL) {
        Operation *next = woken->next;
        woken->next = NULL;
        wake(woken);
        woken = next;
    }
    Py_RETURN_TRUE;
}
