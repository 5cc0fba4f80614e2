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

/* --- close ------------------------------------------------------------------------------------- */

static PyObject *closed_error(Channel *channel) {
    PyObject *error = PyObject_CallOneArg(channel->state->Closed, (PyObject *)channel);
    if (error != NULL && channel->cause != NULL)
        PyException_SetCause(error, Py_NewRef(channel->cause));
    return error;
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

/* --- the type ---------------------------------------------------------------------------------- */

static PyObject *channel_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    Channel *self = (Channel *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->state = state_of((PyObject *)self);
    return (PyObject *)self;
}

/* _begin(limit, overflow, capacity, name): what `__init__` has checked. */
static PyObject *channel_begin(Channel *self, PyObject *args) {
    PyObject *capacity, *name;
    if (!PyArg_ParseTuple(args, "nbOO", &self->limit, &self->overflow, &capacity, &name))
        return NULL;
    Py_XSETREF(self->capacity, Py_NewRef(capacity));
    Py_XSETREF(self->name, Py_NewRef(name));
    Py_RETURN_NONE;
}

static int channel_traverse(Channel *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    VISIT_ALL(self->cause, self->name);
    for (Queue *each = &self->receivers; each <= &self->returned; each++)
        if (queue_traverse(each, visit, arg) != 0)
            return 1;
    return ring_traverse(&self->buffer, visit, arg);
}

static int channel_clear(Channel *self) {
    for (Queue *each = &self->receivers; each <= &self->returned; each++)
        queue_clear(each);
    ring_clear(&self->buffer);
    CLEAR_ALL(self->cause, self->name);
    return 0;
}

static void channel_dealloc(Channel *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, channel_dealloc) /* a channel in a channel in a channel ... */
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    channel_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static int channel_bool(PyObject *self) {
    return 1; /* an empty channel is still a channel */
}

/* Buffered, sent, dropped, parked senders and parked receivers. */
static PyObject *channel_counts(Channel *self, PyObject *unused) {
    Py_ssize_t senders = queue_waiting(self->state, &self->senders);
    Py_ssize_t receivers = senders < 0 ? -1 : queue_waiting(self->state, &self->receivers);
    if (receivers < 0)
        return NULL;
    return Py_BuildValue("nnnnn", channel_length(self), self->sent, self->dropped, senders, receivers);
}

/* What can be received without a sender, in order. Nothing is taken. */
static PyObject *channel_values(Channel *self, PyObject *unused) {
    PyObject *values = PyList_New(0); /* from here on atomic: to append runs no Python code */
    int failed = values == NULL;
    for (Operation *each = self->returned.head; each != NULL && !failed; each = each->next)
        failed = PyList_Append(values, each->value);
    for (Py_ssize_t n = 0; n < self->buffer.count && !failed; n++)
        failed = PyList_Append(values, ring_at(&self->buffer, n));
    if (failed)
        Py_CLEAR(values);
    return values;
}

static PyMemberDef channel_members[] = {
    {"name", T_OBJECT, offsetof(Channel, name), READONLY, "What logs and graphs call this channel."},
    {"capacity", T_OBJECT, offsetof(Channel, capacity), READONLY,
     "How many values it holds: 0 for a rendezvous, `math.inf` for no bound."},
    {"closed", T_BOOL, offsetof(Channel, closed), READONLY,
     "Whether it was closed; values may still be buffered."},
    {"__orig_class__", T_OBJECT_EX, offsetof(Channel, origin), 0, NULL},
    {"_ends", T_OBJECT, offsetof(Channel, ends), 0, NULL},
    {"_cause", T_OBJECT, offsetof(Channel, cause), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Channel, weakrefs), READONLY, NULL},
    {NULL},
};

static PyObject *channel_send(Channel *self, PyObject *value);
static PyObject *channel_recv(Channel *self, PyObject *unused);
static PyObject *channel_anext(Channel *self);
static PyObject *channel_send_nowait(Channel *self, PyObject *value);
static PyObject *channel_recv_nowait(Channel *self, PyObject *unused);
static PyObject *channel_send_many(Channel *self, PyObject *values);
static PyObject *channel_recv_many(Channel *self, PyObject *n);

static PyMethodDef channel_methods[] = {
    {"send", ONE(channel_send), send_doc},
    {"recv", PLAIN(channel_recv), recv_doc},
    {"send_nowait", ONE(channel_send_nowait), send_nowait_doc},
    {"recv_nowait", PLAIN(channel_recv_nowait), recv_nowait_doc},
    {"send_many", ONE(channel_send_many), send_many_doc},
    {"recv_many", ONE(channel_recv_many), recv_many_doc},
    {"_begin", (PyCFunction)channel_begin, METH_VARARGS, NULL},
    {"_close", ONE(channel_close), NULL},
    {"_counts", PLAIN(channel_counts), NULL},
    {"_values", PLAIN(channel_values), NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_doc, channel_doc},
    {Py_tp_new, channel_new},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_clear, channel_clear},
    {Py_tp_methods, channel_methods},
    {Py_tp_members, channel_members},
    {Py_sq_length, channel_length},
    {Py_nb_bool, channel_bool},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, channel_anext},
    {0, NULL},
};

static PyType_Spec channel_spec = {
    .name = "tailrace._core.native.Channel",
    .basicsize = sizeof(Channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = channel_slots,
};
