/* Channel: the state that operations work on.
 *
 * What moves a value is `attempt` in operation.c; here are the parts of the state: the buffer, the
 * values that cancelled receivers gave back, closing. Its ends, who holds them, and all that is
 * shown to people, is written in Python, once for both cores.
 */
#include "native.h"

/* --- returned values --------------------------------------------------------------------------- */

/* How many it holds. */
static inline Py_ssize_t channel_length(Channel *channel) {
    return channel->buffer.count + channel->returned.count;
}

/* A receive that was cancelled gives back what it was handed, to the next that waits or to its
 * place in the order: there it stands itself, but does not keep the channel alive. */
static void give_back(Operation *operation) {
    Channel *channel = operation->channel;
    queue_vet(channel->state, &channel->receivers);
    Operation *peer = claim_head(&channel->receivers);
    if (peer != NULL) {
        peer->base.ticket = operation->base.ticket;
        peer->value = operation->value;
        operation->value = NULL;
        wake(peer);
        return;
    }
    Operation *older = channel->returned.tail;
    while (older != NULL && older->base.ticket > operation->base.ticket)
        older = older->prev;
    queue_insert(&channel->returned, operation, older != NULL ? older->next : channel->returned.head);
    Py_CLEAR(operation->channel);
}

/* The oldest value that was given back; there is one. */
static PyObject *take_returned(Channel *channel, Effects *effects) {
    Operation *first = effects->emptied = channel->returned.head;
    PyObject *value = first->value;
    first->value = NULL;
    leave_line(first);
    return value;
}

/* --- taking ------------------------------------------------------------------------------------ */

/* Where room was made, the value of the first parked sender (who was vetted) moves up. */
static ALWAYS_INLINE void move_up(Channel *channel, Effects *effects) {
    if (channel->senders.head == NULL || UNLIKELY(channel_length(channel) >= channel->limit))
        return;
    if (!ring_has_room(&channel->buffer)) {
        PyErr_Clear(); /* no memory now: it moves up the next time */
        return;
    }
    Operation *peer = claim_head(&channel->senders);
    ring_push(&channel->buffer, peer->value);
    peer->value = NULL;
    channel->sent++;
    effects->woken = peer;
}

/* The next value, as a reference; NULL, without an error, if there is none. */
static ALWAYS_INLINE PyObject *channel_take(Channel *channel, Effects *effects) {
    effects->asked |= queue_vet(channel->state, &channel->senders);
    PyObject *value;
    if (UNLIKELY(channel->returned.count > 0))
        value = take_returned(channel, effects);
    else if (channel->buffer.count > 0)
        value = ring_pop(&channel->buffer);
    else {
        Operation *peer = claim_head(&channel->senders);
        if (peer == NULL)
            return NULL;
        value = peer->value;
        peer->value = NULL;
        channel->sent++;
        effects->woken = peer;
        return value;
    }
    move_up(channel, effects);
    return value;
}

/* The oldest value that was given back, if it is older than the one with this ticket. */
static PyObject *channel_take_before(Channel *channel, Py_ssize_t ticket, Effects *effects) {
    queue_vet(channel->state, &channel->senders);
    if (channel->returned.count == 0 || channel->returned.head->base.ticket >= ticket)
        return NULL;
    PyObject *value = take_returned(channel, effects);
    move_up(channel, effects);
    return value;
}

/* --- closing ----------------------------------------------------------------------------------- */

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

/* What `statistics` counts: sent, dropped, senders and receivers that wait. */
static PyObject *channel_counts(Channel *self, PyObject *unused) {
    Py_ssize_t senders = queue_waiting(self->state, &self->senders);
    Py_ssize_t receivers = senders < 0 ? -1 : queue_waiting(self->state, &self->receivers);
    if (receivers < 0)
        return NULL;
    return Py_BuildValue("nnnnn", channel_length(self), self->sent, self->dropped, senders, receivers);
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
