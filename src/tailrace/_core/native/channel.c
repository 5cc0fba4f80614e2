/* Channel: the state that operations work on.
 *
 * What moves a value is `attempt` in operation.c; here are the parts of the state: the buffer, the
 * values that cancelled receivers gave back, closing. Who holds which end, and all that is shown
 * to people, is written in Python, once for both cores (`_core/channels.py`).
 */
#include "native.h"

/* --- returned values: a binary heap by ticket -------------------------------------------------- */

static int
returned_reserve(Channel *channel)
{
    if (channel->returned_count < channel->returned_size)
        return 0;
    Py_ssize_t size = channel->returned_size != 0 ? 2 * channel->returned_size : 4;
    Returned *returned = PyMem_Resize(channel->returned, Returned, size);
    if (returned == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    channel->returned = returned;
    channel->returned_size = size;
    return 0;
}

static void
returned_push(Channel *channel, Returned entry)
{
    Returned *heap = channel->returned;
    Py_ssize_t at = channel->returned_count++;
    for (Py_ssize_t parent; at > 0 && entry.ticket < heap[parent = (at - 1) / 2].ticket; at = parent)
        heap[at] = heap[parent];
    heap[at] = entry;
}

static PyObject *
returned_pop(Channel *channel)
{
    Returned *heap = channel->returned;
    PyObject *value = heap[0].value;
    Py_ssize_t count = --channel->returned_count, at = 0, child;
    Returned last = heap[count];
    while ((child = 2 * at + 1) < count) {
        if (child + 1 < count && heap[child + 1].ticket < heap[child].ticket)
            child++;
        if (last.ticket <= heap[child].ticket)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return value;
}

/* A cancelled receiver returns what it was handed (the reference goes with it), to the next that
 * waits or to its place in the order. */
static int
channel_give_back(Channel *channel, Py_ssize_t ticket, PyObject *value, Effects *effects)
{
    queue_vet(channel->state, &channel->receivers); /* may be code of others, which gives back too */
    Operation *peer = claim_head(&channel->receivers);
    if (peer == NULL && returned_reserve(channel) < 0) {
        Py_DECREF(value);
        return -1;
    }
    if (peer != NULL) {
        peer->ticket = ticket;
        peer->value = value;
        effects->woken = peer;
    }
    else
        returned_push(channel, (Returned){ticket, value});
    return 0;
}

/* --- taking ------------------------------------------------------------------------------------ */

/* Where room was made, the value of the first parked sender (who was vetted) moves up. */
static ALWAYS_INLINE void
move_up(Channel *channel, Effects *effects)
{
    if (channel->senders.head == NULL ||
        channel->buffer.count + channel->returned_count >= channel->limit)
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
static ALWAYS_INLINE PyObject *
channel_take(Channel *channel, Effects *effects)
{
    effects->asked |= queue_vet(channel->state, &channel->senders);
    PyObject *value;
    if (channel->returned_count > 0)
        value = returned_pop(channel);
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
static PyObject *
channel_returned_before(Channel *channel, Py_ssize_t ticket, Effects *effects)
{
    queue_vet(channel->state, &channel->senders);
    if (channel->returned_count == 0 || channel->returned[0].ticket >= ticket)
        return NULL;
    PyObject *value = returned_pop(channel);
    move_up(channel, effects);
    return value;
}

/* --- closing ----------------------------------------------------------------------------------- */

static PyObject *
closed_error(Channel *channel)
{
    PyObject *error = PyObject_CallOneArg(channel->state->Closed, (PyObject *)channel);
    if (error != NULL && channel->cause != NULL)
        PyException_SetCause(error, Py_NewRef(channel->cause));
    return error;
}

/* Claim everybody in line, to look again; chained by `next`, before `rest`. */
static Operation *
claim_all(Queue *queue, Operation *rest)
{
    Operation *last;
    while ((last = queue->tail) != NULL) {
        queue_unlink(queue, last);
        claim(sleeper_of(last), LOOK_AGAIN, last); /* by which it is woken */
        last->next = rest;
        rest = last;
    }
    return rest;
}

static PyObject *
channel_close(Channel *self, PyObject *cause)
{
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

static int
channel_init(Channel *self, PyObject *args, PyObject *named)
{
    static char *names[] = {"capacity", "name", "overflow", NULL};
    PyObject *capacity = NULL, *name = NULL, *overflow = NULL, *checked;
    State *state = self->state;
    if (!PyArg_ParseTupleAndKeywords(args, named, "|O$UO:Channel", names, &capacity, &name, &overflow))
        return -1;
    capacity = capacity != NULL ? capacity : state->zero;
    if ((checked = PyObject_CallOneArg(state->check_capacity, capacity)) == NULL)
        return -1;
    Py_DECREF(checked);
    int policy = BLOCK;
    if (overflow != NULL) {
        checked = PyObject_CallFunctionObjArgs(state->check_overflow, overflow, capacity, NULL);
        if (checked == NULL)
            return -1;
        if (!PyUnicode_Check(overflow)) { /* equal to a policy, but none */
            Py_DECREF(checked);
            PyErr_Format(PyExc_TypeError, "overflow must be a str, not %R", overflow);
            return -1;
        }
        Py_DECREF(checked);
        policy = PyUnicode_CompareWithASCIIString(overflow, "drop_newest") == 0   ? DROP_NEWEST
                 : PyUnicode_CompareWithASCIIString(overflow, "drop_oldest") == 0 ? DROP_OLDEST
                                                                                  : BLOCK;
    }
    Py_ssize_t limit = NO_LIMIT;
    if (PyLong_Check(capacity)) {
        limit = PyLong_AsSsize_t(capacity);
        if (limit == -1 && PyErr_Occurred()) { /* more than can ever be: as good as no bound */
            PyErr_Clear();
            limit = NO_LIMIT;
        }
    }
    self->limit = limit;
    self->overflow = (uint8_t)policy;
    Py_XSETREF(self->capacity, Py_NewRef(capacity));
    Py_XSETREF(self->name, name != NULL ? Py_NewRef(name) : PyUnicode_FromString(""));
    return self->name != NULL ? 0 : -1;
}

static PyObject *
channel_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    Channel *self = (Channel *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->state = state_of((PyObject *)self);
    return (PyObject *)self;
}

static int
channel_traverse(Channel *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->cause);
    Py_VISIT(self->capacity);
    Py_VISIT(self->ends);
    Py_VISIT(self->origin);
    for (Operation *each = self->receivers.head; each != NULL; each = each->next)
        Py_VISIT(each);
    for (Operation *each = self->senders.head; each != NULL; each = each->next)
        Py_VISIT(each);
    for (Py_ssize_t n = 0; n < self->returned_count; n++)
        Py_VISIT(self->returned[n].value);
    return ring_traverse(&self->buffer, visit, arg);
}

static void
queue_clear(Queue *queue)
{
    Operation *first;
    while ((first = queue->head) != NULL) {
        queue_unlink(queue, first);
        Py_DECREF(first);
    }
}

static int
channel_clear(Channel *self)
{
    queue_clear(&self->receivers);
    queue_clear(&self->senders);
    while (self->returned_count > 0)
        Py_DECREF(returned_pop(self));
    ring_clear(&self->buffer);
    Py_CLEAR(self->cause);
    Py_CLEAR(self->ends);
    Py_CLEAR(self->origin);
    return 0;
}

static void
channel_dealloc(Channel *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, channel_dealloc) /* a channel in a channel in a channel ... */
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    channel_clear(self);
    PyMem_Free(self->returned);
    Py_XDECREF(self->capacity);
    Py_XDECREF(self->name);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static Py_ssize_t
channel_length(Channel *self)
{
    return self->buffer.count + self->returned_count;
}

static int
channel_bool(PyObject *self)
{
    return 1; /* an empty channel is still a channel */
}

static PyObject *
channel_anext(Channel *self)
{
    return (PyObject *)operation_new(self->state, self, NEXT, NULL);
}

/* What `statistics` counts: sent, dropped, senders and receivers that wait, closed. */
static PyObject *
channel_counts(Channel *self, PyObject *unused)
{
    Py_ssize_t senders = queue_waiting(self->state, &self->senders);
    Py_ssize_t receivers = senders < 0 ? -1 : queue_waiting(self->state, &self->receivers);
    if (receivers < 0)
        return NULL;
    return Py_BuildValue("nnnnn", channel_length(self), self->sent, self->dropped, senders, receivers);
}

static PyObject *
channel_sender(Channel *self, void *closure)
{
    return end_new(self->state->SendingEnd, self);
}

static PyObject *
channel_receiver(Channel *self, void *closure)
{
    return end_new(self->state->ReceivingEnd, self);
}

static PyObject *
channel_sync(Channel *self, void *closure)
{
    return end_new(self->state->Blocking, self);
}

static PyObject *
channel_closed(Channel *self, void *closure)
{
    return PyBool_FromLong(self->closed);
}

static PyMethodDef channel_methods[] = {
    {"send", (PyCFunction)channel_send, METH_O, send_doc},
    {"recv", (PyCFunction)channel_recv, METH_NOARGS, recv_doc},
    {"send_nowait", (PyCFunction)channel_send_nowait, METH_O, send_nowait_doc},
    {"recv_nowait", (PyCFunction)channel_recv_nowait, METH_NOARGS, recv_nowait_doc},
    {"send_many", (PyCFunction)channel_send_many, METH_O, send_many_doc},
    {"recv_many", (PyCFunction)channel_recv_many, METH_O, recv_many_doc},
    {"_close", (PyCFunction)channel_close, METH_O, NULL},
    {"_counts", (PyCFunction)channel_counts, METH_NOARGS, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyMemberDef channel_members[] = {
    {"name", T_OBJECT, offsetof(Channel, name), READONLY, "What logs and graphs call this channel."},
    {"capacity", T_OBJECT, offsetof(Channel, capacity), READONLY,
     "How many values it holds: 0 for a rendezvous, `math.inf` for no bound."},
    {"__orig_class__", T_OBJECT_EX, offsetof(Channel, origin), 0, NULL},
    {"_ends", T_OBJECT, offsetof(Channel, ends), 0, NULL},
    {"_cause", T_OBJECT, offsetof(Channel, cause), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Channel, weakrefs), READONLY, NULL},
    {NULL},
};

static PyGetSetDef channel_getset[] = {
    {"sender", (getter)channel_sender, NULL, "The sending end alone.", NULL},
    {"receiver", (getter)channel_receiver, NULL, "The receiving end alone.", NULL},
    {"sync", (getter)channel_sync, NULL,
     "The same channel for threads: its methods block instead of being awaited.", NULL},
    {"closed", (getter)channel_closed, NULL,
     "Whether it was closed; values may still be buffered.", NULL},
    {NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_doc, channel_doc},
    {Py_tp_new, channel_new},
    {Py_tp_init, channel_init},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_clear, channel_clear},
    {Py_tp_methods, channel_methods},
    {Py_tp_members, channel_members},
    {Py_tp_getset, channel_getset},
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
