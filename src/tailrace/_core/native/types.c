/* The types of channels, operations and selects: how these are made from outside, visited by the collector
 * and freed. Their methods show the docstrings of the base classes in `_core/base.py`.
 */
#include "native.h"

/* --- channels ----------------------------------------------------------------------------------- */

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

static void channel_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, channel_dealloc) /* a channel in a channel in a channel ... */
    PyObject_ClearWeakRefs(self);
    free_object(self);
    Py_TRASHCAN_END
}

/* Buffered, sent, dropped, parked senders and parked receivers. */
static PyObject *channel_counts(Channel *self, PyObject *unused) {
    Py_ssize_t senders = queue_waiting(self->state, &self->senders);
    Py_ssize_t receivers = queue_waiting(self->state, &self->receivers);
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

static PyMethodDef channel_methods[] = {
    {"send", ONE(channel_send), "send($self, value, /)\n--\n\n"},
    {"recv", PLAIN(channel_recv), "recv($self, /)\n--\n\n"},
    {"send_nowait", ONE(channel_send_nowait), "send_nowait($self, value, /)\n--\n\n"},
    {"recv_nowait", PLAIN(channel_recv_nowait), "recv_nowait($self, /)\n--\n\n"},
    {"send_many", ONE(channel_send_many), "send_many($self, values, /)\n--\n\n"},
    {"recv_many", ONE(channel_recv_many), "recv_many($self, n, /)\n--\n\n"},
    {"_begin", (PyCFunction)channel_begin, METH_VARARGS, NULL},
    {"_close", ONE(channel_close), NULL},
    {"_counts", PLAIN(channel_counts), NULL},
    {"_values", PLAIN(channel_values), NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_new, channel_new},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_clear, channel_clear},
    {Py_tp_methods, channel_methods},
    {Py_tp_members, channel_members},
    {Py_sq_length, channel_length},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, channel_anext},
    {0, NULL},
};

static PyType_Spec channel_spec = SPEC(Channel, Channel, SUBCLASSED, channel_slots);

/* --- operations --------------------------------------------------------------------------------- */

/* Whether the warning that it was not used has made a reference to it. */
static bool is_brought_back(PyObject *self) {
    return ((Waiter *)self)->phase == FRESH && PyObject_CallFinalizerFromDealloc(self) < 0;
}

/* For `Done` in Python, the only kind that is made from outside. */
static PyObject *operation_of_python(PyTypeObject *type, PyObject *args, PyObject *named) {
    State *state = PyModule_GetState(PyType_GetModuleByDef(type, &native_module));
    if (type == state->Operation || type == state->SendMany || type == state->RecvMany)
        return PyErr_Format(PyExc_TypeError, "operations are made by a channel's send and recv");
    return (PyObject *)operation_make(state, type, DONE, NULL, NULL);
}

static int operation_traverse(Operation *self, visitproc visit, void *arg) {
    VISIT_ALL(self->channel, self->values);
    return waiter_traverse(&self->base, visit, arg);
}

static int operation_clear(Operation *self) {
    if (self->queue != NULL) { /* all of it is garbage: there is nothing to wake */
        leave_queue(self);
        Py_DECREF(self); /* frees nothing: the caller has a reference */
    }
    self->base.phase = SPENT;
    CLEAR_ALL(self->channel, self->values);
    waiter_clear(&self->base);
    return 0;
}

static void operation_dealloc(Operation *self) {
    FreeList *list = free_list(self->base.state, self->base.kind);
    bool of_engine = self->base.kind != DONE; /* and not of a class in Python */
    if (LIKELY(of_engine && self->base.driver_kind == NO_DRIVER && !self->base.not_reusable &&
               self->base.phase != FRESH && list->count < FREE_OPERATIONS)) {
        PyObject *channel = (PyObject *)self->channel, *value = self->value;
        self->channel = NULL;
        self->value = NULL;
        revive((PyObject *)self);
        list->operations[list->count++] = self;
        Py_CLEAR(self->values);
        Py_XDECREF(value);
        Py_XDECREF(channel);
    }
    else if (!is_brought_back((PyObject *)self))
        free_object((PyObject *)self);
}

static PyMemberDef operation_members[] = {
    {"channel", T_OBJECT, offsetof(Operation, channel), READONLY, "The channel it works on."},
    {"_kind", T_UBYTE, offsetof(Operation, base.kind), READONLY, NULL},
    {"_count", T_PYSSIZET, offsetof(Operation, count), READONLY, NULL},
    {NULL},
};

static PyMethodDef operation_methods[] = {
    {"_attempt", ONE(operation_attempt), NULL},
    {"take_value", PLAIN(operation_take_value),
     "take_value($self, /)\n--\n\nWithout the lock, once, after it happened: the value."},
    {NULL},
};

static PyType_Slot operation_slots[] = {
    {Py_tp_iternext, waiter_iternext}, /* `SendManyBase`, like any class in Python, says that it has none */
    {Py_am_send, waiter_send},         /* to 3.11 this is not inherited */
    {Py_tp_new, operation_of_python},
    {Py_tp_dealloc, operation_dealloc},
    {Py_tp_traverse, operation_traverse},
    {Py_tp_clear, operation_clear},
    {Py_tp_methods, operation_methods},
    {Py_tp_members, operation_members},
    {0, NULL},
};

static PyType_Spec operation_spec = SPEC(Operation, Operation, SUBCLASSED, operation_slots);
static PyType_Spec send_many_spec = SPEC(SendMany, Operation, SUBCLASSED, operation_slots);
static PyType_Spec recv_many_spec = SPEC(RecvMany, Operation, SUBCLASSED, operation_slots);

/* --- selects ------------------------------------------------------------------------------------ */

static int select_traverse(Select *self, visitproc visit, void *arg) {
    VISIT_ALL(self->cases, self->timer);
    return waiter_traverse(&self->base, visit, arg);
}

/* The cases stay, for the claim: a cycle through a case is broken by the case. */
static int select_clear(Select *self) {
    if (self->base.phase == PARKED)
        claim(&self->base, CANCELLED, NULL);
    self->base.phase = SPENT;
    CLEAR_ALL(self->timeout, self->timer);
    waiter_clear(&self->base);
    return 0;
}

static void select_dealloc(PyObject *self) {
    PyObject *cases = ((Select *)self)->cases;
    if (is_brought_back(self))
        return;
    free_object(self);
    Py_XDECREF(cases);
}

static PyMemberDef select_members[] = {
    {"cases", T_OBJECT, offsetof(Select, cases), READONLY, "The operations it chooses among."},
    {"timeout", T_OBJECT, offsetof(Select, timeout), READONLY, "In seconds; None for none."},
    {NULL},
};

static PyType_Slot select_slots[] = {
    {Py_tp_doc, "What `select` returns: await it once for ``(index, value)``."},
    {Py_am_send, waiter_send},
    {Py_tp_dealloc, select_dealloc},
    {Py_tp_traverse, select_traverse},
    {Py_tp_clear, select_clear},
    {Py_tp_members, select_members},
    {0, NULL},
};

static PyType_Spec select_spec = SPEC(Select, Select, MADE_HERE | Py_TPFLAGS_HAVE_GC, select_slots);
