/* Operations: what `send` and `recv` return, and the one algorithm by which they happen.
 *
 * `attempt` is that algorithm, for every capacity: a waiting peer, else the buffer, else not now.
 * Awaiting, selecting, blocking a thread and the `*_nowait` calls are four ways to drive it.
 *
 * Cancellation is decided by the claim and by nothing else. An operation that was claimed happened:
 * a send then returns and the cancellation follows at the next await; a receive gives its value
 * back, under the ticket it was handed over with, so that order is kept.
 */
#include "native.h"

static const char *const does[] = {
    [RECV] = "Channel.recv", [SEND] = "Channel.send", [NEXT] = "Channel.__anext__",
    [SEND_MANY] = "Channel.send_many", [RECV_MANY] = "Channel.recv_many", [DONE] = "done",
};

/* --- the algorithm ----------------------------------------------------------------------------- */

static ALWAYS_INLINE Verdict
attempt_send(Operation *operation, Effects *effects)
{
    Channel *channel = operation->channel;
    effects->asked |= queue_vet(channel->state, &channel->receivers);
    if (UNLIKELY(channel->closed))
        return CLOSED;
    PyObject *value = operation->value;
    Operation *peer = claim_head(&channel->receivers);
    if (peer != NULL) {
        peer->base.ticket = ++channel->sent;
        peer->value = value;
        effects->woken = peer;
    }
    else if (channel_length(channel) < channel->limit) {
        if (!ring_has_room(&channel->buffer))
            return FAILED;
        ring_push(&channel->buffer, value);
        channel->sent++;
    }
    else if (LIKELY(channel->overflow == BLOCK))
        return PENDING;
    else {
        /* With nothing but values given back, which no policy drops, the new one is dropped. */
        effects->discarded = value;
        if (channel->overflow == DROP_OLDEST && channel->buffer.count > 0) {
            effects->discarded = ring_pop(&channel->buffer);
            ring_push(&channel->buffer, value);
        }
        channel->dropped++;
        channel->sent++;
    }
    operation->value = NULL;
    return SUCCESS;
}

static ALWAYS_INLINE Verdict
attempt_receive(Operation *operation, Effects *effects)
{
    operation->value = channel_take(operation->channel, effects);
    if (operation->value != NULL)
        return SUCCESS;
    return UNLIKELY(operation->channel->closed) ? CLOSED : PENDING;
}

static COLD Verdict
attempt_done(Operation *operation, Effects *effects)
{
    effects->asked = true;
    int done = truth(PyObject_CallMethodNoArgs((PyObject *)operation, operation->base.state->str__ready));
    return done < 0 ? FAILED : done ? SUCCESS : PENDING;
}

static ALWAYS_INLINE Verdict
attempt(Operation *operation, Effects *effects)
{
    if (UNLIKELY(operation->base.kind == DONE))
        return attempt_done(operation, effects);
    return receives(operation) ? attempt_receive(operation, effects)
                               : attempt_send(operation, effects);
}

/* Raise what an attempt on a closed channel raises; returns NULL. */
static COLD PyObject *
raise_closed(Operation *operation)
{
    Channel *channel = operation->channel;
    if (operation->base.kind == NEXT && channel->cause == NULL)
        PyErr_SetNone(PyExc_StopAsyncIteration);
    else {
        PyObject *error = closed_error(channel);
        if (error != NULL)
            raise_exception(error);
    }
    return NULL;
}

static NEVER_INLINE PyObject *
outcome_of_others(Operation *operation)
{
    if (operation->base.kind == RECV_MANY)
        return recv_many_outcome((Many *)operation);
    if (operation->base.kind == DONE)
        return PyObject_CallMethodNoArgs((PyObject *)operation, operation->base.state->str__finish);
    Py_RETURN_NONE;
}

/* The value of an operation that happened, as a reference. */
static ALWAYS_INLINE PyObject *
outcome(Operation *operation)
{
    PyObject *value = operation->value;
    if (UNLIKELY(operation->base.kind > NEXT))
        return outcome_of_others(operation);
    operation->value = NULL;
    return value != NULL ? value : Py_NewRef(Py_None); /* nothing is left of what was sent */
}

/* --- awaiting ---------------------------------------------------------------------------------- */

/* Stand in line, for oneself or as a case of `select`; code of others runs only for DONE. */
static ALWAYS_INLINE bool
park(Operation *operation, Select *select)
{
    if (LIKELY(select == NULL)) {
        Sleeper *sleeper = &operation->base;
        sleeper->phase = PARKED;
        sleeper->claim = UNCLAIMED;
        sleeper->blocking = true;
    }
    else {
        operation->base.encumbered |= FOR_GOOD;
        operation->select = (Select *)Py_NewRef(select);
    }
    if (UNLIKELY(operation->base.kind == DONE))
        return answered(PyObject_CallMethodNoArgs((PyObject *)operation, operation->base.state->str__watch));
    queue_append(queue_of(operation), operation);
    return true;
}

static int
withdraw_done(Operation *operation)
{
    if (operation->base.kind != DONE)
        return 0;
    PyObject *gone = PyObject_CallMethodNoArgs((PyObject *)operation, operation->base.state->str__withdraw);
    return answered(gone) ? 0 : -1;
}

static ALWAYS_INLINE PySendResult
finish_operation(Operation *operation, PyObject **result)
{
    operation->base.phase = SPENT;
    *result = outcome(operation);
    return LIKELY(*result != NULL) ? PYGEN_RETURN : PYGEN_ERROR;
}

static COLD PySendResult
raise_used(Operation *operation)
{
    PyErr_Format(PyExc_RuntimeError, "%s was awaited already: an operation is used once",
                 does[operation->base.kind]);
    return PYGEN_ERROR;
}

/* Attempt, and if need be sleep. */
static NEVER_INLINE PySendResult
operation_step(Operation *operation, PyObject **result)
{
    Sleeper *sleeper = &operation->base;
    State *state = sleeper->state;
    *result = NULL;
    if (UNLIKELY(sleeper->busy))
        return raise_busy(sleeper);
    if (UNLIKELY(sleeper->phase == SPENT))
        return raise_used(operation);
    if (UNLIKELY(sleeper->phase == PARKED)) {
        if (sleeper->claim == UNCLAIMED) /* driven by hand */
            return yield_itself(sleeper, result);
        unpark(sleeper, BEGUN); /* the channel was closed: something is ready now */
    }
    if (UNLIKELY(sleeper->phase != YIELDED && budget_is_spent(state))) {
        sleeper->phase = YIELDED;
        *result = Py_NewRef(Py_None);
        return PYGEN_NEXT;
    }
    Effects effects = {NULL, NULL, false};
    sleeper->busy = true;
    Verdict verdict = attempt(operation, &effects);
    sleeper->busy = false;
    if (verdict == SUCCESS) {
        state->budget--;
        pay(state, &effects);
        return finish_operation(operation, result);
    }
    if (LIKELY(verdict == PENDING)) {
        if (UNLIKELY(!park(operation, NULL)))
            return PYGEN_ERROR;
        *result = Py_NewRef(operation);
        return PYGEN_NEXT;
    }
    sleeper->phase = SPENT;
    if (verdict == CLOSED)
        raise_closed(operation);
    return PYGEN_ERROR;
}

/* Until it happened. That it did, while it slept, is what a resumed one finds most often. */
static PySendResult
operation_send(PyObject *self, PyObject *arg, PyObject **result)
{
    Operation *operation = (Operation *)self;
    if (operation->base.phase == PARKED && operation->base.claim == HAPPENED)
        return finish_operation(operation, result);
    return operation_step(operation, result);
}

/* Return `value` (whose reference is taken) from an iterator's `__next__`, as 3.12 to 3.14 want
 * it: as a StopIteration. None costs nothing. Within a step of ours the exception is one that is
 * used again and again, as whoever awaits takes it apart at once. */
static PyObject *
hand_out(State *state, PyObject *value)
{
    PyObject *stop = state->stop_iteration;
    if (Py_IsNone(value))
        Py_DECREF(value);
    else if (stop != NULL && Py_REFCNT(stop) == 1 && active_here(state) != NULL) {
        Py_CLEAR(((PyStopIterationObject *)stop)->traceback); /* of an earlier use in this step */
        Py_XSETREF(((PyStopIterationObject *)stop)->value, value);
        raise_exception(Py_NewRef(stop));
    }
    else {
        /* Made here: given to PyErr_SetObject, a tuple or exception would be taken apart. */
        stop = PyObject_CallOneArg(PyExc_StopIteration, value);
        Py_DECREF(value);
        if (stop != NULL)
            raise_exception(stop);
    }
    return NULL;
}

/* After a step: the exception must not keep what it handed out alive, nor, where Python code caught
 * it, the frames of that. */
static inline void
forget_handed_out(State *state)
{
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030F0000
    PyStopIterationObject *stop = (PyStopIterationObject *)state->stop_iteration;
    if (stop != NULL && Py_REFCNT(stop) == 1) {
        Py_CLEAR(stop->value);
        Py_CLEAR(stop->traceback);
        Py_CLEAR(stop->context);
    }
#endif
}

/* By kind and not by slot, as `am_send` is not inherited by types that are made in Python. */
static PySendResult
drive(PyObject *self, PyObject **result)
{
    if (is_select((Sleeper *)self))
        return select_send(self, Py_None, result);
    if (((Sleeper *)self)->kind == SEND_MANY)
        return send_many_send(self, Py_None, result);
    return operation_send(self, Py_None, result);
}

static PyObject *
operation_iternext(PyObject *self)
{
    PyObject *result;
    if (((Sleeper *)self)->phase == FRESH) { /* `a, b = channel.recv()`: an await was forgotten */
        PyErr_Format(PyExc_TypeError, "%R is not an iterator: await it", self);
        return NULL;
    }
    if (drive(self, &result) == PYGEN_RETURN)
        return hand_out(((Sleeper *)self)->state, result);
    return result;
}

static PyObject *
operation_await(Operation *self)
{
    if (UNLIKELY(self->base.phase != FRESH)) {
        raise_used(self);
        return NULL;
    }
    self->base.phase = BEGUN;
    return Py_NewRef(self);
}

/* --- the calls that do not wait, and threads ---------------------------------------------------- */

/* Do it at once, or raise WouldBlock. */
static PyObject *
now_or_never(Channel *channel, uint8_t kind, PyObject *value)
{
    State *state = channel->state;
    Operation now = {.channel = channel, .value = Py_XNewRef(value)};
    now.base.kind = kind;
    now.base.state = state;
    Effects effects = {NULL, NULL, false};
    Verdict verdict = attempt(&now, &effects);
    if (verdict == SUCCESS) {
        pay(state, &effects);
        return outcome(&now);
    }
    Py_CLEAR(now.value);
    if (verdict == CLOSED)
        return raise_closed(&now);
    PyObject *label = verdict == PENDING ? PyObject_CallOneArg(state->label, (PyObject *)channel) : NULL;
    if (label != NULL)
        PyErr_Format(state->WouldBlock, "%s on %U would wait", does[kind], label);
    Py_XDECREF(label);
    return NULL;
}

static PyObject *
channel_send_nowait(Channel *self, PyObject *value)
{
    return now_or_never(self, SEND, value);
}

static PyObject *
channel_recv_nowait(Channel *self, PyObject *unused)
{
    return now_or_never(self, RECV, NULL);
}

/* _block(gate): for a thread. True if it happened at once; else False, and it stands in line with a
 * lock that whoever claims it releases, or if that is None does not. */
static PyObject *
operation_block(Operation *self, PyObject *gate)
{
    Effects effects = {NULL, NULL, false};
    switch (attempt(self, &effects)) {
    case SUCCESS:
        pay(self->base.state, &effects);
        Py_RETURN_TRUE;
    case PENDING:
        if (!Py_IsNone(gate)) {
            unpark(&self->base, BEGUN);
            self->base.encumbered |= FOR_GOOD;
            self->base.party = THREAD;
            self->base.driver = Py_NewRef(gate);
            park(self, NULL);
        }
        Py_RETURN_FALSE;
    case CLOSED:
        self->base.phase = SPENT;
        return raise_closed(self);
    default:
        return NULL;
    }
}

static PyObject *
operation_take_outcome(Operation *self, PyObject *unused)
{
    self->base.phase = SPENT;
    return outcome(self);
}

/* A future, task or event that a `done` case watches is done: it or its select happened. */
static PyObject *
operation_wake_done(Operation *self, PyObject *unused)
{
    return PyBool_FromLong(claim_and_wake(sleeper_of(self), HAPPENED, self));
}

/* --- the type ---------------------------------------------------------------------------------- */

static NEVER_INLINE Operation *
operation_of_type(State *state, PyTypeObject *type, Channel *channel, uint8_t kind)
{
    Operation *self = (Operation *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->base.state = state;
        self->base.kind = kind;
        self->channel = (Channel *)Py_XNewRef(channel);
    }
    return self;
}

static inline PyObject *
operation_new(Channel *channel, uint8_t kind, PyObject *value)
{
    State *state = channel->state;
    Operation *self;
    if (LIKELY(state->free_count > 0)) {
        self = state->free[--state->free_count]; /* with the reference that the list had */
        self->base.phase = FRESH;
        self->base.claim = UNCLAIMED;
        self->base.kind = kind;
        self->base.ticket = 0;
        self->channel = (Channel *)Py_NewRef(channel);
    }
    else if ((self = operation_of_type(state, state->Operation, channel, kind)) == NULL)
        return NULL;
    self->value = Py_XNewRef(value);
    return (PyObject *)self;
}

static PyObject *
channel_send(Channel *self, PyObject *value)
{
    return operation_new(self, SEND, value);
}

static PyObject *
channel_recv(Channel *self, PyObject *unused)
{
    return operation_new(self, RECV, NULL);
}

static PyObject *
channel_anext(Channel *self)
{
    return operation_new(self, NEXT, NULL);
}

/* For Python's `Done`, the one kind that is made from outside. */
static PyObject *
operation_of_python(PyTypeObject *type, PyObject *args, PyObject *named)
{
    State *state = PyModule_GetState(PyType_GetModuleByDef(type, &native_module));
    if (type == state->Operation) {
        PyErr_SetString(PyExc_TypeError, "operations are made by a channel's send and recv");
        return NULL;
    }
    return (PyObject *)operation_of_type(state, type, NULL, DONE);
}

static int
operation_traverse(Operation *self, visitproc visit, void *arg)
{
    Py_VISIT(self->channel);
    Py_VISIT(self->value);
    Py_VISIT(self->select);
    return sleeper_traverse(&self->base, visit, arg);
}

static int
operation_clear(Operation *self)
{
    if (self->base.queued) { /* garbage as a whole: nobody is left to be told */
        queue_unlink(queue_of(self), self);
        Py_DECREF(self); /* frees nothing: whoever clears it has a reference */
    }
    Py_CLEAR(self->channel);
    Py_CLEAR(self->value);
    Py_CLEAR(self->select);
    sleeper_clear(&self->base);
    return 0;
}

static void
operation_finalize(PyObject *self)
{
    ((Sleeper *)self)->encumbered |= FOR_GOOD; /* by the mark of having been finalised, if by nothing else */
    if (((Sleeper *)self)->phase != FRESH)
        return;
    PyObject *pending = take_exception();
    if (!answered(PyObject_CallOneArg(((Sleeper *)self)->state->warn_unused, self)))
        PyErr_WriteUnraisable(self);
    raise_exception(pending);
}

static NEVER_INLINE void
operation_free(Operation *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->base.phase == FRESH && PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0)
        return;
    PyObject_GC_UnTrack(self);
    type->tp_clear((PyObject *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static void
operation_dealloc(Operation *self)
{
    State *state = self->base.state;
    if (LIKELY(Py_IS_TYPE(self, state->Operation) && self->base.party == NOBODY &&
               !self->base.encumbered && self->base.phase != FRESH &&
               state->free_count < FREE_OPERATIONS)) {
        PyObject *channel = (PyObject *)self->channel, *value = self->value;
        self->channel = NULL;
        self->value = NULL;
        revive((PyObject *)self);
        state->free[state->free_count++] = self;
        Py_XDECREF(value);
        Py_XDECREF(channel);
    }
    else
        operation_free(self);
}

static PyObject *
get_does(Operation *self, void *closure)
{
    return PyUnicode_FromString(does[self->base.kind]);
}

static PyGetSetDef operation_getset[] = {
    {"does", (getter)get_does, NULL, "What messages call it.", NULL},
    {NULL},
};

static PyMemberDef operation_members[] = {
    {"channel", T_OBJECT, offsetof(Operation, channel), READONLY, "The channel it works on."},
    {"_kind", T_UBYTE, offsetof(Operation, base.kind), READONLY, NULL},
    {NULL},
};

static PyMethodDef operation_methods[] = {
    {"_block", ONE(operation_block), NULL},
    {"_take_outcome", PLAIN(operation_take_outcome), NULL},
    {"_wake_done", PLAIN(operation_wake_done), NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL},
};

static PyType_Slot operation_slots[] = {
    {Py_tp_doc, operation_doc},
    {Py_tp_new, operation_of_python},
    {Py_tp_dealloc, operation_dealloc},
    {Py_tp_finalize, operation_finalize},
    {Py_tp_traverse, operation_traverse},
    {Py_tp_clear, operation_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, operation_iternext},
    {Py_am_await, operation_await},
    {Py_am_send, operation_send},
    {Py_tp_methods, operation_methods},
    {Py_tp_members, operation_members},
    {Py_tp_getset, operation_getset},
    {0, NULL},
};

static PyType_Spec operation_spec = {
    .name = "tailrace._core.native.Operation",
    .basicsize = sizeof(Operation),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = operation_slots,
};
