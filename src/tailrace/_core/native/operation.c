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

/* --- the algorithm ----------------------------------------------------------------------------- */

static ALWAYS_INLINE Verdict attempt_send(Operation *operation, Effects *effects) {
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

static ALWAYS_INLINE Verdict attempt_receive(Operation *operation, Effects *effects) {
    operation->value = channel_take(operation->channel, effects);
    if (operation->value != NULL)
        return SUCCESS;
    return UNLIKELY(operation->channel->closed) ? CLOSED : PENDING;
}

/* What an operation of Python's kind answers; see `done.py`. */
static PyObject *ask(Operation *operation, PyObject *method) {
    return PyObject_CallMethodNoArgs((PyObject *)operation, method);
}

static COLD Verdict attempt_done(Operation *operation, Effects *effects) {
    effects->asked = true;
    int done = truth(ask(operation, operation->base.state->str__ready));
    return done < 0 ? FAILED : done ? SUCCESS : PENDING;
}

static ALWAYS_INLINE Verdict attempt(Operation *operation, Effects *effects) {
    if (UNLIKELY(operation->base.kind == DONE))
        return attempt_done(operation, effects);
    return receives(operation) ? attempt_receive(operation, effects)
                               : attempt_send(operation, effects);
}

/* Raise what an attempt on a closed channel raises; returns NULL. */
static COLD PyObject *raise_closed(Operation *operation) {
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

static NEVER_INLINE PyObject *outcome_of_others(Operation *operation) {
    if (operation->base.kind == RECV_MANY)
        return recv_many_outcome(operation);
    if (operation->base.kind == DONE)
        return ask(operation, operation->base.state->str__finish);
    Py_RETURN_NONE;
}

/* The value of an operation that happened, as a reference. */
static ALWAYS_INLINE PyObject *outcome(Operation *operation) {
    PyObject *value = operation->value;
    if (UNLIKELY(operation->base.kind > NEXT))
        return outcome_of_others(operation);
    operation->value = NULL;
    return value != NULL ? value : Py_NewRef(Py_None); /* nothing is left of what was sent */
}

/* --- one step --------------------------------------------------------------------------------- */

/* Stand in line, for oneself or as a case of `select`; code of others runs only for DONE. */
static ALWAYS_INLINE bool park(Operation *operation, Select *select) {
    if (LIKELY(select == NULL)) {
        Sleeper *sleeper = &operation->base;
        sleeper->phase = PARKED;
        sleeper->claim = UNCLAIMED;
    }
    else {
        operation->base.encumbered |= FOR_GOOD;
        operation->select = (Select *)Py_NewRef(select);
    }
    if (UNLIKELY(operation->base.kind == DONE))
        return answered(ask(operation, operation->base.state->str__watch));
    Channel *channel = operation->channel;
    queue_insert(receives(operation) ? &channel->receivers : &channel->senders, operation, NULL);
    return true;
}

static int withdraw_done(Operation *operation) {
    if (operation->base.kind != DONE)
        return 0;
    return answered(ask(operation, operation->base.state->str__withdraw)) ? 0 : -1;
}

/* Attempt, and if need be sleep. */
static ALWAYS_INLINE PySendResult operation_step(Operation *operation, PyObject **result) {
    Effects effects = {NULL};
    Verdict verdict = attempt(operation, &effects);
    if (verdict == SUCCESS) {
        operation->base.state->budget--;
        pay(operation->base.state, &effects);
        *result = outcome(operation);
        return LIKELY(*result != NULL) ? PYGEN_RETURN : PYGEN_ERROR;
    }
    if (LIKELY(verdict == PENDING) && LIKELY(park(operation, NULL)))
        return yield_itself(&operation->base, result);
    operation->base.state->budget--;
    if (verdict == CLOSED)
        raise_closed(operation);
    return PYGEN_ERROR;
}

/* --- the calls that do not wait, and threads ---------------------------------------------------- */

/* Do it at once, or raise WouldBlock. */
static PyObject *now_or_never(Channel *channel, uint8_t kind, PyObject *value) {
    State *state = channel->state;
    Operation now = {.channel = channel, .value = Py_XNewRef(value)};
    now.base.kind = kind;
    now.base.state = state;
    Effects effects = {NULL};
    Verdict verdict = attempt(&now, &effects);
    if (verdict == SUCCESS) {
        pay(state, &effects);
        return outcome(&now);
    }
    Py_CLEAR(now.value);
    if (verdict == CLOSED)
        return raise_closed(&now);
    if (verdict == PENDING)
        Py_XDECREF(PyObject_CallFunction(state->refuse_waiting, "Oi", channel, kind));
    return NULL;
}

static PyObject *channel_send_nowait(Channel *self, PyObject *value) {
    return now_or_never(self, SEND, value);
}

static PyObject *channel_recv_nowait(Channel *self, PyObject *unused) {
    return now_or_never(self, RECV, NULL);
}

/* _block(gate): for a thread. True if it happened at once; else False, and it stands in line with a
 * lock that whoever claims it releases, or if that is None does not. */
static PyObject *operation_block(Operation *self, PyObject *gate) {
    Effects effects = {NULL};
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

static PyObject *operation_take_outcome(Operation *self, PyObject *unused) {
    self->base.phase = SPENT;
    return outcome(self);
}

/* A future, task or event that a `done` case watches is done: it or its select happened. */
static PyObject *operation_wake_done(Operation *self, PyObject *unused) {
    return PyBool_FromLong(claim_and_wake(sleeper_of(self), HAPPENED, self));
}

/* --- the type ---------------------------------------------------------------------------------- */

static NEVER_INLINE Operation *operation_of_type(State *state, PyTypeObject *type, Channel *channel,
                                                 uint8_t kind) {
    Operation *self = (Operation *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->base.state = state;
        self->base.kind = kind;
        self->channel = (Channel *)Py_XNewRef(channel);
    }
    return self;
}

static inline PyObject *operation_new(Channel *channel, uint8_t kind, PyObject *value) {
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

static PyObject *channel_send(Channel *self, PyObject *value) {
    return operation_new(self, SEND, value);
}

static PyObject *channel_recv(Channel *self, PyObject *unused) {
    return operation_new(self, RECV, NULL);
}

static PyObject *channel_anext(Channel *self) {
    return operation_new(self, NEXT, NULL);
}

/* For Python's `Done`, the one kind that is made from outside. */
static PyObject *operation_of_python(PyTypeObject *type, PyObject *args, PyObject *named) {
    State *state = PyModule_GetState(PyType_GetModuleByDef(type, &native_module));
    if (type == state->Operation || type == state->SendMany || type == state->RecvMany) {
        PyErr_SetString(PyExc_TypeError, "operations are made by a channel's send and recv");
        return NULL;
    }
    return (PyObject *)operation_of_type(state, type, NULL, DONE);
}

static int operation_traverse(Operation *self, visitproc visit, void *arg) {
    VISIT_ALL(self->channel, self->values);
    return sleeper_traverse(&self->base, visit, arg);
}

static int operation_clear(Operation *self) {
    if (self->line != NULL) { /* garbage as a whole: nobody is left to be told */
        leave_line(self);
        Py_DECREF(self); /* frees nothing: whoever clears it has a reference */
    }
    self->base.phase = SPENT;
    CLEAR_ALL(self->channel, self->values);
    sleeper_clear(&self->base);
    return 0;
}

static NEVER_INLINE void operation_free(Operation *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->base.phase == FRESH && PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0)
        return;
    PyObject_GC_UnTrack(self);
    type->tp_clear((PyObject *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static void operation_dealloc(Operation *self) {
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

static PyMemberDef operation_members[] = {
    {"channel", T_OBJECT, offsetof(Operation, channel), READONLY, "The channel it works on."},
    {"_kind", T_UBYTE, offsetof(Operation, base.kind), READONLY, NULL},
    {"_count", T_PYSSIZET, offsetof(Operation, count), READONLY, NULL},
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
    {Py_tp_finalize, sleeper_finalize},
    {Py_tp_traverse, operation_traverse},
    {Py_tp_clear, operation_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, sleeper_iternext},
    {Py_am_await, sleeper_await},
    {Py_am_send, sleeper_send},
    {Py_tp_methods, operation_methods},
    {Py_tp_members, operation_members},
    {0, NULL},
};

#define OPERATION_SPEC(kind)                                                                        \
    {                                                                                               \
        .name = "tailrace._core.native." kind, .basicsize = sizeof(Operation),                      \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,                     \
        .slots = operation_slots,                                                                   \
    }

static PyType_Spec operation_spec = OPERATION_SPEC("Operation");
static PyType_Spec send_many_spec = OPERATION_SPEC("SendMany");
static PyType_Spec recv_many_spec = OPERATION_SPEC("RecvMany");
