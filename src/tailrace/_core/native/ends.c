/* The ends of a channel: each only its half of the methods; and the view for threads.
 *
 * How they look and compare is written in Python (`_core/channels.py`). */
#include "native.h"

typedef struct {
    PyObject_HEAD
    Channel *channel;
} End;

static PyObject *
end_new(PyTypeObject *type, Channel *channel)
{
    End *self = (End *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->channel = (Channel *)Py_NewRef(channel);
    return (PyObject *)self;
}

static PyObject *
end_of_channel(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"channel", NULL};
    State *state = PyModule_GetState(PyType_GetModuleByDef(type, &native_module));
    PyObject *channel;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O!", names, state->Channel, &channel))
        return NULL;
    return end_new(type, (Channel *)channel);
}

static int
end_traverse(End *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->channel);
    return 0;
}

static int
end_clear(End *self)
{
    Py_CLEAR(self->channel);
    return 0;
}

static void
end_dealloc(End *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->channel);
    type->tp_free(self);
    Py_DECREF(type);
}

/* --- on a loop --------------------------------------------------------------------------------- */

static PyObject *
end_send(End *self, PyObject *value)
{
    return channel_send(self->channel, value);
}

static PyObject *
end_send_nowait(End *self, PyObject *value)
{
    return channel_send_nowait(self->channel, value);
}

static PyObject *
end_send_many(End *self, PyObject *values)
{
    return channel_send_many(self->channel, values);
}

static PyObject *
end_recv(End *self, PyObject *unused)
{
    return channel_recv(self->channel, unused);
}

static PyObject *
end_recv_nowait(End *self, PyObject *unused)
{
    return channel_recv_nowait(self->channel, unused);
}

static PyObject *
end_recv_many(End *self, PyObject *n)
{
    return channel_recv_many(self->channel, n);
}

static PyObject *
end_aiter(End *self)
{
    return Py_NewRef(self->channel);
}

/* --- in a thread ------------------------------------------------------------------------------- */

/* What can be done at once is done here; the rest is `threads.block`, which knows of timeouts,
 * signals and thread actors. */
static PyObject *
end_block(Channel *channel, uint8_t kind, PyObject *value, PyObject *timeout)
{
    State *state = channel->state;
    if (Py_IsNone(timeout) && state->cancelled_threads == 0 && running_loop(state) == NULL) {
        PyObject *done;
        if (do_now(channel, kind, value, &done))
            return done;
    }
    Operation *operation = operation_new(state, channel, kind, value);
    if (operation == NULL)
        return NULL;
    operation->base.phase = BEGUN;
    PyObject *result = PyObject_CallFunctionObjArgs(state->block, operation, timeout, NULL);
    Py_DECREF(operation);
    return result;
}

/* The arguments by position or name, the first `required` of which must be there. */
static int
read_arguments(PyObject *const *args, Py_ssize_t count, PyObject *keywords, const char *const *names,
               int required, PyObject **values)
{
    int known = 0;
    while (names[known] != NULL)
        known++;
    if (count > known) {
        PyErr_Format(PyExc_TypeError, "takes at most %d arguments (%zd given)", known, count);
        return -1;
    }
    for (Py_ssize_t n = 0; n < count; n++)
        values[n] = args[n];
    for (Py_ssize_t n = 0; keywords != NULL && n < PyTuple_GET_SIZE(keywords); n++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, n);
        int at = 0;
        while (at < known && PyUnicode_CompareWithASCIIString(keyword, names[at]) != 0)
            at++;
        if (at == known || at < count) {
            PyErr_Format(PyExc_TypeError, "got an unexpected keyword argument %R", keyword);
            return -1;
        }
        values[at] = args[count + n];
    }
    for (int n = 0; n < required; n++)
        if (values[n] == NULL) {
            PyErr_Format(PyExc_TypeError, "missing argument '%s'", names[n]);
            return -1;
        }
    return 0;
}

static PyObject *
blocking_send(End *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"value", "timeout", NULL};
    PyObject *values[] = {NULL, Py_None};
    if (read_arguments(args, count, keywords, names, 1, values) < 0)
        return NULL;
    return end_block(self->channel, SEND, values[0], values[1]);
}

static PyObject *
blocking_recv(End *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"timeout", NULL};
    PyObject *values[] = {Py_None};
    if (read_arguments(args, count, keywords, names, 0, values) < 0)
        return NULL;
    return end_block(self->channel, RECV, NULL, values[0]);
}

static PyObject *
blocking_sender(End *self, void *closure)
{
    return end_new(self->channel->state->BlockingSender, self->channel);
}

static PyObject *
blocking_receiver(End *self, void *closure)
{
    return end_new(self->channel->state->BlockingReceiver, self->channel);
}

/* --- the types --------------------------------------------------------------------------------- */

static PyMemberDef end_members[] = {
    {"_channel", T_OBJECT, offsetof(End, channel), READONLY, NULL},
    {NULL},
};

static PyMethodDef end_methods[] = {
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyType_Slot end_slots[] = {
    {Py_tp_doc, "What the ends have in common: two of one channel are equal."},
    {Py_tp_new, end_of_channel},
    {Py_tp_dealloc, end_dealloc},
    {Py_tp_traverse, end_traverse},
    {Py_tp_clear, end_clear},
    {Py_tp_members, end_members},
    {Py_tp_methods, end_methods},
    {0, NULL},
};

static PyMethodDef sending_end_methods[] = {
    {"send", (PyCFunction)end_send, METH_O, send_end_doc},
    {"send_nowait", (PyCFunction)end_send_nowait, METH_O, send_nowait_end_doc},
    {"send_many", (PyCFunction)end_send_many, METH_O, send_many_end_doc},
    {NULL},
};

static PyType_Slot sending_end_slots[] = {
    {Py_tp_doc, "The sending end of a channel: `send`, `send_nowait`, `send_many`, and no more."},
    {Py_tp_methods, sending_end_methods},
    {0, NULL},
};

static PyMethodDef receiving_end_methods[] = {
    {"recv", (PyCFunction)end_recv, METH_NOARGS, recv_end_doc},
    {"recv_nowait", (PyCFunction)end_recv_nowait, METH_NOARGS, recv_nowait_end_doc},
    {"recv_many", (PyCFunction)end_recv_many, METH_O, recv_many_end_doc},
    {NULL},
};

static PyType_Slot receiving_end_slots[] = {
    {Py_tp_doc, "The receiving end: `recv`, `recv_nowait`, `recv_many`, `async for`, and no more."},
    {Py_tp_methods, receiving_end_methods},
    {Py_am_aiter, end_aiter},
    {0, NULL},
};

static PyMethodDef blocking_sender_methods[] = {
    {"send", (PyCFunction)(void (*)(void))blocking_send, METH_FASTCALL | METH_KEYWORDS,
     blocking_send_doc},
    {NULL},
};

static PyType_Slot blocking_sender_slots[] = {
    {Py_tp_doc, "The sending end of a channel, for threads."},
    {Py_tp_methods, blocking_sender_methods},
    {0, NULL},
};

static PyMethodDef blocking_receiver_methods[] = {
    {"recv", (PyCFunction)(void (*)(void))blocking_recv, METH_FASTCALL | METH_KEYWORDS,
     blocking_recv_doc},
    {NULL},
};

static PyType_Slot blocking_receiver_slots[] = {
    {Py_tp_doc, "The receiving end of a channel, for threads."},
    {Py_tp_methods, blocking_receiver_methods},
    {0, NULL},
};

static PyGetSetDef blocking_getset[] = {
    {"sender", (getter)blocking_sender, NULL, "The sending end alone, for threads.", NULL},
    {"receiver", (getter)blocking_receiver, NULL, "The receiving end alone, for threads.", NULL},
    {NULL},
};

static PyType_Slot blocking_slots[] = {
    {Py_tp_doc,
     "A channel as threads use it: `send`, `recv`, ``for v in …``; `Channel.sync` gives it."},
    {Py_tp_getset, blocking_getset},
    {0, NULL},
};

#define END_SPEC(variable, type_name, end_type_slots)                                              \
    static PyType_Spec variable = {                                                                 \
        .name = "tailrace._core.native." type_name,                                                \
        .basicsize = sizeof(End),                                                                  \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | END_GC,                                \
        .slots = end_type_slots,                                                                   \
    }
#define END_GC Py_TPFLAGS_HAVE_GC
END_SPEC(end_spec, "_End", end_slots);
#undef END_GC
#define END_GC 0 /* inherited, with what goes with it */
END_SPEC(sending_end_spec, "SendingEnd", sending_end_slots);
END_SPEC(receiving_end_spec, "ReceivingEnd", receiving_end_slots);
END_SPEC(blocking_sender_spec, "BlockingSender", blocking_sender_slots);
END_SPEC(blocking_receiver_spec, "BlockingReceiver", blocking_receiver_slots);
END_SPEC(blocking_spec, "Blocking", blocking_slots);
