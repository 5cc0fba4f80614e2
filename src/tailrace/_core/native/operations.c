/* Operations: what `send` and `recv` return, and their drivers.
 *
 * Four drivers (await, `select`, the `*_nowait` calls, a blocked thread) call the same `attempt`, so a
 * value always moves by the same code.
 *
 * The claim alone decides what happened. If the task of a claimed operation is cancelled, a send
 * returns and the cancellation comes at the task's next await; a receive gives its value back under
 * its ticket, which keeps the order.
 */
#include "native.h"

/* --- attempts ---------------------------------------------------------------------------------- */

/* Call a method of a `done` operation, which is written in Python; see `done.py`. */
static PyObject *ask(Operation *operation, PyObject *method) {
    return PyObject_CallMethodNoArgs((PyObject *)operation, method);
}

static COLD AttemptResult attempt_done(Operation *operation, Effects *effects) {
    effects->user_code_ran = true;
    int done = truth(ask(operation, operation->base.state->str__ready));
    return done < 0 ? FAILED : done ? SUCCESS : WAIT;
}

static ALWAYS_INLINE AttemptResult attempt(Operation *operation, Effects *effects) {
    if (UNLIKELY(operation->base.kind == DONE))
        return attempt_done(operation, effects);
    return receives(operation) ? channel_try_receive(operation, effects)
                               : channel_try_send(operation, effects);
}

/* Raise the error of an attempt on a closed channel; returns NULL. */
static COLD PyObject *raise_closed(Operation *operation) {
    bool ends = operation->base.kind == NEXT && operation->channel->cause == NULL;
    return raise_new(ends ? PyObject_CallNoArgs(PyExc_StopAsyncIteration)
                          : closed_error(operation->channel));
}

static NEVER_INLINE PyObject *take_other_value(Operation *operation) {
    if (operation->base.kind == RECV_MANY)
        return recv_many_take_value(operation);
    if (operation->base.kind == DONE)
        return ask(operation, operation->base.state->str_take_value);
    Py_RETURN_NONE;
}

/* The value of an operation that happened, as a reference. */
static ALWAYS_INLINE PyObject *take_value(Operation *operation) {
    PyObject *value = operation->value;
    if (UNLIKELY(operation->base.kind > NEXT))
        return take_other_value(operation);
    operation->value = NULL;
    return value != NULL ? value : Py_NewRef(Py_None); /* of a send */
}

/* --- one step --------------------------------------------------------------------------------- */

/* Park, by itself or as a case of `select`. Runs user code only for DONE. */
static ALWAYS_INLINE bool park(Operation *operation, Select *select) {
    if (LIKELY(select == NULL)) {
        Waiter *waiter = &operation->base;
        waiter->phase = PARKED;
        waiter->claim = UNCLAIMED;
    }
    else {
        operation->base.not_reusable |= FOR_GOOD;
        operation->select = (Select *)Py_NewRef(select);
    }
    if (UNLIKELY(operation->base.kind == DONE))
        return answered(ask(operation, operation->base.state->str__watch));
    Channel *channel = operation->channel;
    queue_insert(receives(operation) ? &channel->receivers : &channel->senders, operation, NULL);
    return true;
}

static int withdraw_done(Operation *operation) {
    bool watches = operation->base.kind == DONE;
    return !watches || answered(ask(operation, operation->base.state->str__unwatch)) ? 0 : -1;
}

/* Attempt, and if need be park. */
static ALWAYS_INLINE PySendResult operation_step(Operation *operation, PyObject **result) {
    Effects effects = {NULL};
    AttemptResult attempted = attempt(operation, &effects);
    if (attempted == SUCCESS) {
        operation->base.state->budget--;
        apply(operation->base.state, &effects);
        *result = take_value(operation);
        return LIKELY(*result != NULL) ? PYGEN_RETURN : PYGEN_ERROR;
    }
    if (LIKELY(attempted == WAIT) && LIKELY(park(operation, NULL)))
        return yield_itself(&operation->base, result);
    operation->base.state->budget--;
    if (attempted == CLOSED)
        raise_closed(operation);
    return PYGEN_ERROR;
}

/* --- the `*_nowait` calls, and threads ---------------------------------------------------------- */

/* Do it at once, or raise WouldBlock. */
static PyObject *try_now(Channel *channel, uint8_t kind, PyObject *value) {
    State *state = channel->state;
    Operation now = {.channel = channel, .value = Py_XNewRef(value)};
    now.base.kind = kind;
    now.base.state = state;
    Effects effects = {NULL};
    AttemptResult attempted = attempt(&now, &effects);
    if (attempted == SUCCESS) {
        apply(state, &effects);
        return take_value(&now);
    }
    Py_CLEAR(now.value);
    if (attempted == CLOSED)
        return raise_closed(&now);
    if (attempted == WAIT)
        Py_XDECREF(PyObject_CallFunction(state->raise_would_block, "Oi", channel, kind));
    return NULL;
}

static PyObject *channel_send_nowait(Channel *self, PyObject *value) {
    return try_now(self, SEND, value);
}

static PyObject *channel_recv_nowait(Channel *self, PyObject *unused) {
    return try_now(self, RECV, NULL);
}

/* _attempt(lock): True: it happened. False: with a lock it is parked, and a claim releases the lock;
 * with None nothing has changed. */
static PyObject *operation_attempt(Operation *self, PyObject *lock) {
    Effects effects = {NULL};
    switch (attempt(self, &effects)) {
    case SUCCESS:
        apply(self->base.state, &effects);
        Py_RETURN_TRUE;
    case WAIT:
        if (!Py_IsNone(lock)) {
            unpark(&self->base, BEGUN);
            self->base.not_reusable |= FOR_GOOD;
            self->base.driver_kind = THREAD;
            self->base.driver = Py_NewRef(lock);
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

static PyObject *operation_take_value(Operation *self, PyObject *unused) {
    self->base.phase = SPENT;
    return take_value(self);
}

/* --- the type ---------------------------------------------------------------------------------- */

/* `type` is the one of that kind; no channel for DONE, a value for SEND. */
static NEVER_INLINE Operation *operation_make(State *state, PyTypeObject *type, uint8_t kind,
                                              Channel *channel, PyObject *value) {
    Operation *self = (Operation *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->base.state = state;
        self->base.kind = kind;
        self->channel = (Channel *)Py_XNewRef(channel);
        self->value = Py_XNewRef(value);
    }
    return self;
}

static ALWAYS_INLINE FreeList *free_list(State *state, uint8_t kind) {
    return LIKELY(kind <= NEXT) ? state->free : &state->free[kind - NEXT];
}

/* The same from the free list, if that has one. */
static ALWAYS_INLINE Operation *operation_new(Channel *channel, PyTypeObject *type, uint8_t kind, PyObject *value) {
    FreeList *list = free_list(channel->state, kind);
    if (UNLIKELY(list->count == 0))
        return operation_make(channel->state, type, kind, channel, value);
    Operation *self = list->operations[--list->count]; /* with the reference of the list */
    self->base.phase = FRESH;
    self->base.claim = UNCLAIMED;
    self->base.kind = kind;
    self->base.ticket = 0;
    self->count = 0;
    self->channel = (Channel *)Py_NewRef(channel);
    self->value = Py_XNewRef(value);
    return self;
}

static PyObject *channel_send(Channel *self, PyObject *value) {
    return (PyObject *)operation_new(self, self->state->Operation, SEND, value);
}

static PyObject *channel_recv(Channel *self, PyObject *unused) {
    return (PyObject *)operation_new(self, self->state->Operation, RECV, NULL);
}

static PyObject *channel_anext(Channel *self) {
    return (PyObject *)operation_new(self, self->state->Operation, NEXT, NULL);
}
