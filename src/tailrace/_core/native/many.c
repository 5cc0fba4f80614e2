/* Many at once: `recv_many` takes what else is there when it resumes; `send_many` sends one value
 * after another, and counts them. Several values move in one copy where no waiter is concerned; else
 * each moves by an `attempt` of its own, and the budget may yield between two. */
#include "native.h"

/* --- recv_many --------------------------------------------------------------------------------- */

/* Put `value` (whose reference is taken) at the end: there is room. */
static inline void add_value(PyObject *values, PyObject *value) {
    PyList_SET_ITEM(values, PyList_GET_SIZE(values), value);
    Py_SET_SIZE(values, PyList_GET_SIZE(values) + 1);
}

/* Take from the buffer in one copy, if there are no returned values and at most one parked sender. */
static void take_in_one_go(Channel *channel, PyObject *values, Py_ssize_t most) {
    Effects effects = {NULL};
    queue_skip_unreachable(channel->state, &channel->senders);
    Py_ssize_t size = PyList_GET_SIZE(values), more = Py_MIN(most - size, channel->buffer.count);
    if (more < 1 || channel->returned.count > 0 || channel->senders.count > 1)
        return;
    ring_pop_many(&channel->buffer, ((PyListObject *)values)->ob_item + size, more);
    Py_SET_SIZE(values, size + more);
    refill(channel, &effects);
    apply(channel->state, &effects);
}

/* Take what there is, one by one, until the list is full; with a ticket only what is older. */
static void take_one_by_one(Channel *channel, PyObject *values, Py_ssize_t most, Py_ssize_t ticket) {
    while (PyList_GET_SIZE(values) < most) {
        Effects effects = {NULL};
        PyObject *value = ticket > 0 ? channel_take_before(channel, ticket, &effects)
                                     : channel_take(channel, &effects);
        apply(channel->state, &effects);
        if (value == NULL)
            return;
        add_value(values, value);
    }
}

/* The value that it waited for, after older returned values; and what else is there. */
static PyObject *recv_many_take_value(Operation *self) {
    Channel *channel = self->channel;
    Py_ssize_t most = Py_MIN(self->count - 1, channel_length(channel) + channel->senders.count) + 1;
    PyObject *values = PyList_New(most); /* the collector may run here */
    if (values == NULL) {
        PyObject *error = PyErr_GetRaisedException();
        undo(self);
        PyErr_SetRaisedException(error);
        return NULL;
    }
    PyObject_GC_UnTrack(values); /* until it is whole */
    Py_SET_SIZE(values, 0);
    if (self->base.ticket > 0)
        take_one_by_one(channel, values, most - 1, self->base.ticket);
    add_value(values, self->value);
    self->value = NULL;
    take_in_one_go(channel, values, most);
    take_one_by_one(channel, values, most, 0);
    PyObject_GC_Track(values);
    channel->state->budget -= PyList_GET_SIZE(values) - 1;
    return values;
}

static PyObject *channel_recv_many(Channel *self, PyObject *n) {
    bool whole = PyLong_Check(n) && !PyBool_Check(n);
    Py_ssize_t most = whole ? PyNumber_AsSsize_t(n, NULL) : 0; /* what is too large becomes the largest */
    if (most < 1)
        return PyErr_Format(PyExc_ValueError, "recv_many takes a whole number of at least 1, not %R", n);
    Operation *many = operation_new(self, self->state->RecvMany, RECV_MANY, NULL);
    if (many != NULL)
        many->count = most;
    return (PyObject *)many;
}

/* --- send_many --------------------------------------------------------------------------------- */

static bool is_plain(PyObject *values) {
    return PyList_CheckExact(values) || PyTuple_CheckExact(values);
}

/* Have the next value in `value`: 1, or 0 at the end. May run user code. */
static int pull(Operation *self) {
    PyObject *values = self->values;
    if (self->value != NULL)
        return 1;
    if (!is_plain(values)) {
        self->value = PyIter_Next(values);
        return self->value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
    }
    if (self->count >= PySequence_Fast_GET_SIZE(values))
        return 0;
    self->value = Py_NewRef(PySequence_Fast_GET_ITEM(values, self->count));
    return 1;
}

/* Send of a list or tuple, in one copy, what there is room for; no receiver is parked. */
static void fill_buffer(Operation *self) {
    Channel *channel = self->channel;
    Ring *buffer = &channel->buffer;
    State *state = channel->state;
    PyObject *values = self->values;
    if (self->value != NULL || !is_plain(values) || channel->closed || channel->receivers.head != NULL)
        return;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(values) - self->count;
    count = Py_MIN(count, channel->limit - channel_length(channel));
    count = Py_MIN(count, state->budget);
    while (buffer->size - buffer->count < count)
        if (!ring_grow(buffer)) {
            PyErr_Clear(); /* the attempt with the next value reports it */
            return;
        }
    if (count > 0) {
        PyObject **items = PySequence_Fast_ITEMS(values) + self->count;
        for (Py_ssize_t n = 0; n < count; n++)
            Py_INCREF(items[n]);
        ring_push_many(buffer, items, count);
        self->count += count;
        channel->sent += count;
        state->budget -= count;
    }
}

/* Send values until it parks or all are sent. If it has `yielded`, it attempts the value in hand before
 * it yields again, whatever other tasks have spent meanwhile: as every operation does. */
static PySendResult send_many_step(Operation *self, bool yielded, PyObject **result) {
    State *state = self->base.state;
    /* In the first step: an iterator of all but a list or tuple; that may run user code. */
    if (self->base.phase != YIELDED && !is_plain(self->values)) {
        Py_XSETREF(self->values, PyObject_GetIter(self->values));
        if (self->values == NULL)
            return PYGEN_ERROR;
    }
    self->base.phase = YIELDED;
    for (;;) {
        fill_buffer(self);
        int more = pull(self);
        if (more <= 0) {
            *result = more == 0 ? Py_NewRef(Py_None) : NULL;
            return more == 0 ? PYGEN_RETURN : PYGEN_ERROR;
        }
        if (!yielded && budget_is_spent(state))
            return yield_for_others(&self->base, result);
        yielded = false;
        Effects effects = {NULL};
        AttemptResult attempted = attempt(self, &effects);
        if (attempted == WAIT) {
            park(self, NULL);
            return yield_itself(&self->base, result);
        }
        state->budget--;
        if (attempted == CLOSED)
            raise_closed(self);
        if (attempted != SUCCESS)
            return PYGEN_ERROR;
        self->count++;
        apply(state, &effects);
    }
}

static PyObject *channel_send_many(Channel *self, PyObject *values) {
    Operation *many = operation_new(self, self->state->SendMany, SEND_MANY, NULL);
    if (many != NULL)
        many->values = Py_NewRef(values);
    return (PyObject *)many;
}
