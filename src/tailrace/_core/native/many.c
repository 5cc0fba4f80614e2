/* Many at once: `recv_many` takes what else is there when it resumes; `send_many` sends one after
 * another, and counts those that happened. Each value moves by `attempt`, on its own: between two
 * of them others may have their turn. */
#include "native.h"

/* --- recv_many --------------------------------------------------------------------------------- */

/* For want of memory: `value` (whose reference is taken) goes back, and the error stays set. */
static void
return_value(Operation *operation, PyObject *value)
{
    PyObject *error = take_exception();
    Effects effects = {NULL, NULL, false};
    if (channel_give_back(operation->channel, operation->ticket, value, &effects) == 0)
        pay(operation->base.state, &effects);
    PyErr_Clear();
    raise_exception(error);
}

/* Put `value` (whose reference is taken) at the end. */
static int
add_value(PyObject *values, Operation *operation, PyObject *value)
{
    if (PyList_Append(values, value) < 0) {
        return_value(operation, value);
        return -1;
    }
    Py_DECREF(value);
    return 0;
}

/* What is given back as older than the one it waited for, into `values`. */
static int
take_older(Operation *self, PyObject *values)
{
    PyObject *value = NULL;
    while (self->ticket > 0 && PyList_GET_SIZE(values) < self->count - 1) {
        Effects effects = {NULL, NULL, false};
        value = channel_returned_before(self->channel, self->ticket, &effects);
        pay(self->base.state, &effects);
        if (value == NULL)
            return 0;
        if (add_value(values, self, value) < 0)
            return -1;
    }
    return 0;
}

/* The one it waited for and what is buffered, in one go, where there is nothing to it: nobody has
 * given back, and at most one sender moves up. NULL, without an error, elsewhere. */
static PyObject *
take_in_one_go(Operation *self)
{
    Channel *channel = self->channel;
    Py_ssize_t more = Py_MIN(self->count - 1, channel->buffer.count);
    PyObject *values = more > 0 ? PyList_New(1 + more) : NULL; /* the collector may run here */
    if (values == NULL) {
        PyErr_Clear();
        return NULL;
    }
    Effects effects = {NULL, NULL, false};
    queue_vet(self->base.state, &channel->senders);
    if (channel->returned_count > 0 || channel->buffer.count < more ||
        channel->senders.head != channel->senders.tail) {
        Py_DECREF(values);
        return NULL;
    }
    PyList_SET_ITEM(values, 0, self->value);
    self->value = NULL;
    for (Py_ssize_t n = 1; n <= more; n++)
        PyList_SET_ITEM(values, n, ring_pop(&channel->buffer));
    move_up(channel, &effects);
    pay(self->base.state, &effects);
    return values;
}

/* The one it waited for, after older ones that others gave back. */
static PyObject *
take_one_by_one(Operation *self)
{
    PyObject *values = PyList_New(0), *value = self->value;
    int failed = values == NULL ? -1 : take_older(self, values);
    self->value = NULL;
    if (failed < 0)
        return_value(self, value);
    if (failed < 0 || add_value(values, self, value) < 0)
        Py_CLEAR(values);
    return values;
}

/* What it waited for, and what else is there. */
static PyObject *
recv_many_outcome(Operation *self)
{
    State *state = self->base.state;
    PyObject *values = take_in_one_go(self), *value;
    if (values == NULL && (values = take_one_by_one(self)) == NULL)
        return NULL;
    while (PyList_GET_SIZE(values) < self->count) {
        Effects effects = {NULL, NULL, false};
        value = channel_take(self->channel, &effects);
        pay(state, &effects);
        if (value == NULL)
            break;
        if (add_value(values, self, value) < 0) {
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
    if (overflow != 0 || most > NO_LIMIT)
        most = overflow < 0 ? 0 : NO_LIMIT;
    if (most < 1) {
        PyErr_Format(PyExc_ValueError,
                     "recv_many takes a whole number of at least 1, not %R", n);
        return NULL;
    }
    Operation *operation = operation_of_type(self->state, self->state->RecvMany, self, RECV_MANY);
    if (operation != NULL)
        operation->count = (Py_ssize_t)most;
    return (PyObject *)operation;
}

/* --- send_many --------------------------------------------------------------------------------- */

static bool
is_plain(PyObject *values)
{
    return PyList_CheckExact(values) || PyTuple_CheckExact(values);
}

/* At the first step: all but a list or tuple is asked for an iterator, which is others' code. */
static int
begin_sending(Operation *self)
{
    self->base.phase = YIELDED;
    if (is_plain(self->values))
        return 0;
    PyObject *iterator = PyObject_GetIter(self->values);
    if (iterator == NULL)
        return -1;
    Py_SETREF(self->values, iterator);
    return 0;
}

/* Have the next value in `value`: 1, or 0 at the end. Pulling may be code of others. */
static int
pull(Operation *self)
{
    PyObject *values = self->values;
    if (self->value != NULL)
        return 1;
    if (is_plain(values)) {
        if (self->count >= PySequence_Fast_GET_SIZE(values))
            return 0;
        self->value = Py_NewRef(PySequence_Fast_GET_ITEM(values, self->count));
        return 1;
    }
    self->value = PyIter_Next(self->values);
    return self->value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
}

/* As many as there is room for, in one go, of a list or tuple; nobody waits for them. */
static void
fill_buffer(Operation *self)
{
    Channel *channel = self->channel;
    PyObject *values = self->values;
    if (self->value != NULL || !is_plain(values) || channel->closed || channel->receivers.head != NULL)
        return;
    Py_ssize_t room = channel->limit - channel->buffer.count - channel->returned_count;
    Py_ssize_t count = Py_MIN(room, PySequence_Fast_GET_SIZE(values) - self->count);
    count = Py_MIN(count, self->base.state->budget);
    for (Py_ssize_t n = 0; n < count && ring_has_room(&channel->buffer); n++) {
        ring_push(&channel->buffer, Py_NewRef(PySequence_Fast_GET_ITEM(values, self->count)));
        self->count++;
        channel->sent++;
        self->base.state->budget--;
    }
    PyErr_Clear(); /* no memory: the attempt with the next one says so */
}

/* One value: sent, parked with, or not. */
static Verdict
send_one(Operation *self)
{
    Effects effects = {NULL, NULL, false};
    Verdict verdict = attempt(self, &effects);
    if (verdict == SUCCESS) {
        self->count++;
        self->base.state->budget--;
        pay(self->base.state, &effects);
    }
    else if (verdict == PENDING)
        park(self, NULL);
    else if (verdict == CLOSED)
        raise_closed(self);
    return verdict;
}

/* After a sleep: 0 if it goes on. */
static int
resume_sending(Operation *self)
{
    Sleeper *sleeper = &self->base;
    if (sleeper->claim == UNCLAIMED)
        return 1; /* driven by hand */
    if (sleeper->claim == HAPPENED)
        self->count++;
    sleeper_clear(sleeper);
    sleeper->phase = YIELDED;
    sleeper->claim = UNCLAIMED;
    return 0;
}

static PySendResult
send_many_step(PyObject *object, PyObject **result)
{
    Operation *self = (Operation *)object;
    Sleeper *sleeper = &self->base;
    *result = NULL;
    if (sleeper->phase == SPENT) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Channel.send_many was awaited already: an operation is used once");
        return PYGEN_ERROR;
    }
    if (sleeper->phase < YIELDED && begin_sending(self) < 0) {
        sleeper->phase = SPENT;
        return PYGEN_ERROR;
    }
    Verdict verdict = PENDING;
    bool asleep = sleeper->phase == PARKED && resume_sending(self) != 0;
    while (!asleep) {
        fill_buffer(self);
        int more = pull(self);
        if (more <= 0) {
            sleeper->phase = SPENT;
            *result = more == 0 ? Py_NewRef(Py_None) : NULL;
            return more == 0 ? PYGEN_RETURN : PYGEN_ERROR;
        }
        if (budget_is_spent(sleeper->state)) {
            *result = Py_NewRef(Py_None);
            return PYGEN_NEXT;
        }
        verdict = send_one(self);
        if (verdict == CLOSED || verdict == FAILED) {
            sleeper->phase = SPENT;
            return PYGEN_ERROR;
        }
        asleep = verdict == PENDING;
    }
    sleeper->blocking = true;
    *result = Py_NewRef(object);
    return PYGEN_NEXT;
}

static PySendResult
send_many_send(PyObject *object, PyObject *arg, PyObject **result)
{
    Sleeper *sleeper = (Sleeper *)object;
    *result = NULL;
    if (sleeper->busy)
        return raise_busy(sleeper);
    sleeper->busy = true;
    PySendResult how = send_many_step(object, result);
    sleeper->busy = false;
    return how;
}

static PyObject *
send_many_throw(Operation *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *error = interrupt_of(args, count), *result = NULL;
    if (error == NULL)
        return NULL;
    int raise = interrupted(self, error);
    if (self->base.claim == HAPPENED)
        self->count++;
    self->base.claim = UNCLAIMED; /* counted */
    if (raise != 0) {
        if (raise > 0)
            raise_exception(error);
        else
            Py_DECREF(error);
        return NULL;
    }
    Py_DECREF(error); /* put off: the one value was sent, go on with the next */
    sleeper_clear(&self->base);
    self->base.phase = YIELDED;
    self->base.claim = UNCLAIMED;
    if (send_many_send((PyObject *)self, Py_None, &result) == PYGEN_RETURN) {
        Py_DECREF(result);
        PyErr_SetNone(PyExc_StopIteration);
        return NULL;
    }
    return result;
}

static PyObject *
send_many_close(Operation *self, PyObject *unused)
{
    if (interrupted(self, NULL) < 0)
        return NULL;
    if (self->base.claim == HAPPENED)
        self->count++;
    self->base.claim = UNCLAIMED; /* counted */
    Py_RETURN_NONE;
}

static PyObject *
channel_send_many(Channel *self, PyObject *values)
{
    Operation *operation = operation_of_type(self->state, self->state->SendMany, self, SEND_MANY);
    if (operation != NULL)
        operation->values = Py_NewRef(values);
    return (PyObject *)operation;
}

/* --- the types --------------------------------------------------------------------------------- */

static PyMemberDef send_many_members[] = {
    {"sent", T_PYSSIZET, offsetof(Operation, count), READONLY,
     "How many values were sent so far, exact after any exception."},
    {NULL},
};

static PyMethodDef send_many_methods[] = {
    {"throw", (PyCFunction)(void (*)(void))send_many_throw, METH_FASTCALL, NULL},
    {"close", (PyCFunction)send_many_close, METH_NOARGS, NULL},
    {NULL},
};

static PyType_Slot send_many_slots[] = {
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, operation_iternext},
    {Py_am_await, operation_await},
    {Py_tp_dealloc, operation_dealloc},
    {Py_tp_finalize, operation_finalize},
    {Py_tp_traverse, operation_traverse},
    {Py_tp_clear, operation_clear},
    {Py_tp_doc, "`Channel.send_many`: sends one after another; `sent` counts those that happened."},
    {Py_am_send, send_many_send},
    {Py_tp_methods, send_many_methods},
    {Py_tp_members, send_many_members},
    {0, NULL},
};

static PyType_Spec send_many_spec = {
    .name = "tailrace._core.native.SendMany",
    .basicsize = sizeof(Operation),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = send_many_slots,
};

static PyType_Slot recv_many_slots[] = {
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, operation_iternext},
    {Py_am_await, operation_await},
    {Py_tp_dealloc, operation_dealloc},
    {Py_tp_finalize, operation_finalize},
    {Py_tp_traverse, operation_traverse},
    {Py_tp_clear, operation_clear},
    {Py_am_send, operation_send},
    {Py_tp_doc, "`Channel.recv_many`: a receive that takes what else is there when it resumes."},
    {0, NULL},
};

static PyType_Spec recv_many_spec = {
    .name = "tailrace._core.native.RecvMany",
    .basicsize = sizeof(Operation),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = recv_many_slots,
};
