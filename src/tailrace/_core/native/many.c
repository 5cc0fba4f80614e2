/* Many at once: `recv_many` takes what else is there when it resumes; `send_many` sends one after
 * another, and counts those that happened. Where nothing stands between them, several values move in
 * one go; else each by `attempt`, on its own, and between two of them others may have their turn. */
#include "native.h"

/* --- recv_many --------------------------------------------------------------------------------- */

/* For want of memory: `value` (whose reference is taken) goes back, and the error stays set. */
static void
return_value(Many *self, PyObject *value)
{
    PyObject *error = take_exception();
    channel_give_back(self->base.channel, self->base.base.ticket, value);
    PyErr_Clear();
    raise_exception(error);
}

/* Put `value` (whose reference is taken) at the end. */
static bool
add_value(PyObject *values, Many *self, PyObject *value)
{
    if (PyList_Append(values, value) < 0) {
        return_value(self, value);
        return false;
    }
    Py_DECREF(value);
    return true;
}

/* The one it waited for and what is buffered, in one go, where there is nothing to it: nobody has
 * given back, and at most one sender moves up. NULL, without an error, elsewhere. */
static PyObject *
take_in_one_go(Many *self)
{
    Channel *channel = self->base.channel;
    Py_ssize_t more = Py_MIN(self->count - 1, channel->buffer.count);
    PyObject *values = more > 0 ? PyList_New(1 + more) : NULL; /* the collector may run here */
    if (values == NULL) {
        PyErr_Clear();
        return NULL;
    }
    Effects effects = {NULL, NULL, false};
    queue_vet(channel->state, &channel->senders);
    if (channel->returned != NULL || channel->buffer.count < more ||
        channel->senders.head != channel->senders.tail) {
        Py_DECREF(values);
        return NULL;
    }
    PyList_SET_ITEM(values, 0, self->base.value);
    self->base.value = NULL;
    ring_pop_many(&channel->buffer, ((PyListObject *)values)->ob_item + 1, more);
    move_up(channel, &effects);
    pay(channel->state, &effects);
    return values;
}

/* The one it waited for, after older ones that others gave back. */
static PyObject *
take_one_by_one(Many *self)
{
    Py_ssize_t ticket = self->base.base.ticket;
    PyObject *values = PyList_New(0), *older, *value;
    bool good = values != NULL;
    while (good && ticket > 0 && PyList_GET_SIZE(values) < self->count - 1) {
        Effects effects = {NULL, NULL, false};
        older = channel_returned_before(self->base.channel, ticket, &effects);
        pay(self->base.base.state, &effects);
        if (older == NULL)
            break;
        good = add_value(values, self, older);
    }
    value = self->base.value;
    self->base.value = NULL;
    if (!good)
        return_value(self, value);
    else
        good = add_value(values, self, value);
    if (!good)
        Py_CLEAR(values);
    return values;
}

/* What it waited for, and what else is there. */
static PyObject *
recv_many_outcome(Many *self)
{
    State *state = self->base.base.state;
    PyObject *values = take_in_one_go(self);
    if (values == NULL && (values = take_one_by_one(self)) == NULL)
        return NULL;
    while (PyList_GET_SIZE(values) < self->count) {
        Effects effects = {NULL, NULL, false};
        PyObject *value = channel_take(self->base.channel, &effects);
        pay(state, &effects);
        if (value == NULL)
            break;
        if (!add_value(values, self, value)) {
            Py_DECREF(values);
            return NULL;
        }
    }
    state->budget -= PyList_GET_SIZE(values) - 1;
    return values;
}

static PyObject *
channel_recv_many(Channel *self, PyObject *n)
{
    int overflow = 0;
    long long most = PyLong_Check(n) && !PyBool_Check(n) ? PyLong_AsLongLongAndOverflow(n, &overflow) : 0;
    if (overflow > 0 || most > PY_SSIZE_T_MAX)
        most = PY_SSIZE_T_MAX;
    if (most < 1 || overflow < 0) {
        PyErr_Format(PyExc_ValueError, "recv_many takes a whole number of at least 1, not %R", n);
        return NULL;
    }
    Many *many = (Many *)operation_of_type(self->state, self->state->RecvMany, self, RECV_MANY);
    if (many != NULL)
        many->count = (Py_ssize_t)most;
    return (PyObject *)many;
}

/* --- send_many --------------------------------------------------------------------------------- */

static bool
is_plain(PyObject *values)
{
    return PyList_CheckExact(values) || PyTuple_CheckExact(values);
}

/* Have the next value in `value`: 1, or 0 at the end. Pulling may be code of others. */
static int
pull(Many *self)
{
    PyObject *values = self->values;
    if (self->base.value != NULL)
        return 1;
    if (!is_plain(values)) {
        self->base.value = PyIter_Next(values);
        return self->base.value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
    }
    if (self->count >= PySequence_Fast_GET_SIZE(values))
        return 0;
    self->base.value = Py_NewRef(PySequence_Fast_GET_ITEM(values, self->count));
    return 1;
}

/* Own the references to the next `count` values: those at the end of a list that nobody else has
 * are taken out of it. */
static void
own(Many *self, PyObject **items, Py_ssize_t count)
{
    PyObject *values = self->values;
    if (PyList_CheckExact(values) && Py_REFCNT(values) == 1 &&
        self->count + count == PyList_GET_SIZE(values))
        Py_SET_SIZE(values, self->count);
    else
        for (Py_ssize_t n = 0; n < count; n++)
            Py_INCREF(items[n]);
}

/* As many as there is room for, in one go, of a list or tuple; nobody waits for them. */
static void
fill_buffer(Many *self)
{
    Channel *channel = self->base.channel;
    Ring *buffer = &channel->buffer;
    State *state = channel->state;
    PyObject *values = self->values;
    if (self->base.value != NULL || !is_plain(values) || channel->closed || channel->receivers.head != NULL)
        return;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(values) - self->count;
    count = Py_MIN(count, channel->limit - channel_length(channel));
    count = Py_MIN(count, state->budget);
    while (buffer->size - buffer->count < count)
        if (!ring_grow(buffer)) {
            PyErr_Clear(); /* the attempt with the next one says so */
            return;
        }
    if (count > 0) {
        PyObject **items = PySequence_Fast_ITEMS(values) + self->count;
        own(self, items, count);
        ring_push_many(buffer, items, count);
        self->count += count;
        channel->sent += count;
        state->budget -= count;
    }
}

/* Values until it sleeps or all are sent; the phase is YIELDED in between. */
static PySendResult
send_more(Many *self, PyObject **result)
{
    Operation *operation = &self->base;
    State *state = operation->base.state;
    for (;;) {
        fill_buffer(self);
        int more = pull(self);
        if (more == 0)
            *result = Py_NewRef(Py_None);
        if (more <= 0)
            return more == 0 ? PYGEN_RETURN : PYGEN_ERROR;
        if (budget_is_spent(state)) {
            *result = Py_NewRef(Py_None);
            return PYGEN_NEXT;
        }
        Effects effects = {NULL, NULL, false};
        Verdict verdict = attempt(operation, &effects);
        if (verdict == PENDING) {
            park(operation, NULL);
            return yield_itself(&operation->base, result);
        }
        if (verdict == CLOSED)
            raise_closed(operation);
        if (verdict != SUCCESS)
            return PYGEN_ERROR;
        self->count++;
        state->budget--;
        pay(state, &effects);
    }
}

/* At the first step all but a list or tuple is asked for an iterator, which is others' code. */
static bool
begin_sending(Many *self)
{
    if (!is_plain(self->values))
        Py_XSETREF(self->values, PyObject_GetIter(self->values));
    return self->values != NULL;
}

static PySendResult
send_many_send(PyObject *object, PyObject *arg, PyObject **result)
{
    Many *self = (Many *)object;
    Sleeper *sleeper = &self->base.base;
    *result = NULL;
    if (sleeper->busy)
        return raise_busy(sleeper);
    if (sleeper->phase == SPENT)
        return raise_used(&self->base);
    if (sleeper->phase == PARKED) {
        if (sleeper->claim == UNCLAIMED) /* driven by hand */
            return yield_itself(sleeper, result);
        self->count += sleeper->claim == HAPPENED;
        unpark(sleeper, YIELDED);
    }
    sleeper->busy = true;
    bool begun = sleeper->phase == YIELDED || begin_sending(self);
    sleeper->phase = YIELDED;
    PySendResult how = begun ? send_more(self, result) : PYGEN_ERROR;
    sleeper->busy = false;
    if (how != PYGEN_NEXT)
        sleeper->phase = SPENT;
    return how;
}

static PyObject *
channel_send_many(Channel *self, PyObject *values)
{
    Many *many = (Many *)operation_of_type(self->state, self->state->SendMany, self, SEND_MANY);
    if (many != NULL)
        many->values = Py_NewRef(values);
    return (PyObject *)many;
}

/* --- the types --------------------------------------------------------------------------------- */

static int
many_traverse(Many *self, visitproc visit, void *arg)
{
    Py_VISIT(self->values);
    return operation_traverse(&self->base, visit, arg);
}

static int
many_clear(Many *self)
{
    Py_CLEAR(self->values);
    return operation_clear(&self->base);
}

static PyMemberDef send_many_members[] = {
    {"sent", T_PYSSIZET, offsetof(Many, count), READONLY,
     "How many values were sent so far, exact after any exception."},
    {NULL},
};

/* What both have; `am_send` and what goes with it are not inherited. */
#define MANY_SLOTS                                                                                  \
    {Py_tp_dealloc, operation_dealloc}, {Py_tp_finalize, operation_finalize},                       \
        {Py_tp_traverse, many_traverse}, {Py_tp_clear, many_clear}, {Py_tp_iter, PyObject_SelfIter}, \
        {Py_tp_iternext, operation_iternext}, {Py_am_await, operation_await}

static PyType_Slot send_many_slots[] = {
    MANY_SLOTS,
    {Py_tp_doc, "`Channel.send_many`: sends one after another; `sent` counts those that happened."},
    {Py_am_send, send_many_send},
    {Py_tp_members, send_many_members},
    {0, NULL},
};

static PyType_Slot recv_many_slots[] = {
    MANY_SLOTS,
    {Py_tp_doc, "`Channel.recv_many`: a receive that takes what else is there when it resumes."},
    {Py_am_send, operation_send},
    {0, NULL},
};

static PyType_Spec send_many_spec = {
    .name = "tailrace._core.native.SendMany",
    .basicsize = sizeof(Many),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = send_many_slots,
};

static PyType_Spec recv_many_spec = {
    .name = "tailrace._core.native.RecvMany",
    .basicsize = sizeof(Many),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = recv_many_slots,
};
