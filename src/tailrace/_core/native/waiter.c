/* Waiter: an operation, or a select for all of its cases, while its driver is parked.
 *
 * The driver attaches to the waiter when that yields itself: an actor by `attach_actor`, any other
 * task by what it expects of a future, a thread by `_attempt`. If the waiter was claimed before that,
 * the driver is resumed at once. `throw`, `close` and `done` are in `bases.py`.
 */
#include "native.h"

/* --- the driver -------------------------------------------------------------------------------- */

static inline void attach_actor(Waiter *waiter, Actor *actor) {
    Scheduler *scheduler = actor->scheduler;
    double now = scheduler_now(scheduler); /* may run user code */
    if (waiter->claim == UNCLAIMED)
        waiter->since = now;
    waiter->driver_kind = ACTOR;
    waiter->blocking = false;
    waiter->driver = Py_NewRef(actor);
    Py_XSETREF(waiter->scheduler, (Scheduler *)Py_NewRef(scheduler));
    actor->waiting = Py_NewRef(waiter);
    actor->parked = true;
    if (UNLIKELY(waiter->claim != UNCLAIMED))
        wake_waiter(waiter);
}

/* Claim it for a cancellation, which is counted even if the claim fails. */
static bool cancel_waiter(Waiter *waiter, PyObject *message) {
    if (waiter->phase == YIELDED) /* the task itself raises it when it is resumed */
        return false;
    waiter->not_reusable |= FOR_GOOD;
    if (waiter->cancel_messages == NULL)
        waiter->cancel_messages = PyList_New(0);
    if (waiter->cancel_messages == NULL || PyList_Append(waiter->cancel_messages, message) < 0)
        PyErr_WriteUnraisable((PyObject *)waiter);
    return claim_and_wake(waiter, CANCELLED, NULL);
}

/* A new CancelledError, with a message unless that is NULL or None; NULL with an error set. */
static PyObject *new_cancellation(State *state, PyObject *message) {
    PyObject *given = message != NULL && Py_IsNone(message) ? NULL : message;
    return PyObject_CallFunctionObjArgs(state->CancelledError, given, NULL);
}

/* The same with the message of the first cancellation. */
static PyObject *cancellation_of(Waiter *waiter) {
    PyObject *messages = waiter->cancel_messages;
    bool any = messages != NULL && PyList_GET_SIZE(messages) > 0;
    return new_cancellation(waiter->state, any ? PyList_GET_ITEM(messages, 0) : NULL);
}

/* --- awaiting ---------------------------------------------------------------------------------- */

/* Raise why it must not be driven: in the words of `bases.py`. If user code in a step (`is_closed` of a
 * loop, an iterator of values) drove the same operation, that would be queued twice, or send its value
 * twice. */
static COLD PyObject *refuse(Waiter *waiter, bool stepping) {
    PyObject *in_step = stepping ? Py_True : Py_False;
    return PyObject_CallFunctionObjArgs(waiter->state->raise_not_driven, waiter, in_step, NULL);
}

/* Handle the claim: PYGEN_NEXT to attempt again. */
static PySendResult after_wake(Waiter *waiter, PyObject **result) {
    if (waiter->kind == SELECT && release((Select *)waiter) < 0)
        return PYGEN_ERROR;
    if (waiter->kind == SEND_MANY)
        ((Operation *)waiter)->count += waiter->claim == HAPPENED;
    else if (waiter->claim == HAPPENED || waiter->claim == TIMED_OUT) {
        *result = waiter->claim == TIMED_OUT ? PyTuple_Pack(2, Py_None, Py_None)
                  : waiter->kind == SELECT   ? index_and_value((Select *)waiter, SUCCESS)
                                              : take_value((Operation *)waiter);
        return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
    }
    unpark(waiter, waiter->kind == SEND_MANY ? YIELDED : BEGUN);
    return PYGEN_NEXT;
}

/* Attempt, unless it happened while it was parked, or must yield first. */
static ALWAYS_INLINE PySendResult go_on(Waiter *waiter, PyObject **result) {
    bool yielded = waiter->phase == YIELDED;
    if (UNLIKELY(waiter->phase == PARKED)) {
        if (waiter->claim == UNCLAIMED) /* driven by hand */
            return yield_itself(waiter, result);
        PySendResult how = after_wake(waiter, result);
        if (how != PYGEN_NEXT)
            return how;
    }
    if (waiter->kind == SEND_MANY)
        return send_many_step((Operation *)waiter, yielded, result);
    if (UNLIKELY(!yielded && budget_is_spent(waiter->state))) {
        waiter->phase = YIELDED;
        return yield_for_others(waiter, result);
    }
    if (UNLIKELY(waiter->kind == SELECT))
        return select_step((Select *)waiter, result);
    return operation_step((Operation *)waiter, result);
}

static PySendResult hear_put_off(Waiter *waiter, PyObject **result);

static NEVER_INLINE PySendResult waiter_step(Waiter *waiter, PyObject **result) {
    *result = NULL;
    if (UNLIKELY(waiter->stepping || waiter->phase == SPENT)) {
        refuse(waiter, waiter->stepping);
        return PYGEN_ERROR;
    }
    waiter->stepping = true;
    PySendResult how = go_on(waiter, result);
    waiter->stepping = false;
    if (how != PYGEN_NEXT)
        waiter->phase = SPENT;
    else if (UNLIKELY(waiter->phase == PARKED && PyDict_GET_SIZE(waiter->state->put_off) > 0))
        return hear_put_off(waiter, result);
    return how;
}

/* Step. Most often it has happened while it was parked. */
static PySendResult waiter_send(PyObject *self, PyObject *arg, PyObject **result) {
    Waiter *waiter = (Waiter *)self;
    if (waiter->phase != PARKED || waiter->claim != HAPPENED || waiter->kind > NEXT)
        return waiter_step(waiter, result);
    waiter->phase = SPENT;
    *result = take_value((Operation *)waiter);
    return PYGEN_RETURN;
}

/* Return `value` (whose reference is taken) from an iterator's `__next__`: as a StopIteration, which
 * 3.12 to 3.14 need. None costs nothing. Within a step of a scheduler one exception is reused, as the
 * await takes its value at once. */
static PyObject *hand_out(State *state, PyObject *value) {
    PyObject *stop = state->stop_iteration;
    if (Py_IsNone(value))
        Py_DECREF(value);
    else if (stop != NULL && Py_REFCNT(stop) == 1 && active_here(state) != NULL) {
        Py_CLEAR(((PyStopIterationObject *)stop)->traceback); /* of an earlier use in this step */
        Py_XSETREF(((PyStopIterationObject *)stop)->value, value);
        PyErr_SetRaisedException(Py_NewRef(stop));
    }
    else {
        /* Made here: given to PyErr_SetObject, a tuple or exception would be taken apart. */
        raise_new(PyObject_CallOneArg(PyExc_StopIteration, value));
        Py_DECREF(value);
    }
    return NULL;
}

/* After a step: the reused exception must keep alive neither its value nor, if Python code caught it,
 * the frames of that code. */
static inline void forget_handed_out(State *state) {
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030F0000
    PyStopIterationObject *stop = (PyStopIterationObject *)state->stop_iteration;
    if (stop != NULL && Py_REFCNT(stop) == 1) {
        Py_CLEAR(stop->value);
        Py_CLEAR(stop->traceback);
        Py_CLEAR(stop->context);
    }
#endif
}

static PyObject *waiter_iternext(PyObject *self) {
    PyObject *result;
    if (UNLIKELY(((Waiter *)self)->phase == FRESH)) /* `a, b = channel.recv()`: an await was forgotten */
        return refuse((Waiter *)self, false);
    if (waiter_send(self, Py_None, &result) == PYGEN_RETURN)
        return hand_out(((Waiter *)self)->state, result);
    return result;
}

static PyObject *waiter_await(Waiter *self) {
    if (UNLIKELY(self->phase != FRESH))
        return refuse(self, false);
    self->phase = BEGUN;
    return Py_NewRef(self);
}

/* --- an exception at the await ------------------------------------------------------------------ */

/* Whether `error` was a cancellation that is put off to the task's next await. */
static int put_off(Waiter *waiter, PyObject *error) {
    Py_ssize_t cancellations = waiter->cancel_messages != NULL ? PyList_GET_SIZE(waiter->cancel_messages) : 0;
    return truth(PyObject_CallFunction(waiter->state->put_off_cancellation, "On", error, cancellations));
}

/* _interrupted(error): decide what an exception at the await means; None: it is given up. True: raise
 * it. False: a send happened, and returns. */
static PyObject *waiter_interrupted(Waiter *self, PyObject *error) {
    if (self->stepping)
        return refuse(self, true);
    if (self->phase == SPENT) /* or a case, whose value its select or the channel has */
        Py_RETURN_TRUE;
    bool parked = self->phase == PARKED, select = self->kind == SELECT;
    bool happened = parked && !claim(self, CANCELLED, NULL) && self->claim == HAPPENED;
    Operation *winner = select ? ((Select *)self)->winner : (Operation *)self;
    self->phase = SPENT;
    self->not_reusable |= FOR_GOOD;
    int later = happened && sends(winner) ? put_off(self, error) : 0;
    if (later > 0) {
        self->phase = PARKED;
        Py_RETURN_FALSE;
    }
    if (later == 0 && parked)
        later = select ? release((Select *)self) : withdraw_done(winner);
    if (later < 0)
        return NULL;
    if (happened)
        undo(winner);
    else if (!select)
        Py_CLEAR(winner->value);
    Py_RETURN_TRUE;
}

/* It has parked: a cancellation of its task that was put off arrives at this await. */
static PySendResult hear_put_off(Waiter *waiter, PyObject **result) {
    PyObject *heard = PyObject_CallNoArgs(waiter->state->hear_put_off);
    if (heard == NULL) { /* a signal handler has raised */
        PyObject *error = PyErr_GetRaisedException();
        Py_CLEAR(*result);
        Py_XDECREF(waiter_interrupted(waiter, error));
        PyErr_SetRaisedException(error);
        return PYGEN_ERROR;
    }
    Py_DECREF(heard);
    return PYGEN_NEXT;
}

/* --- what a task asks of a future ------------------------------------------------------------- */

static PyObject *waiter_get_blocking(Waiter *self, void *closure) {
    bool yields = self->phase == PARKED || self->phase == YIELDED;
    return yields ? PyBool_FromLong(self->blocking) : Py_NewRef(Py_None);
}

static int waiter_set_blocking(Waiter *self, PyObject *value, void *closure) {
    int blocking = value != NULL ? PyObject_IsTrue(value) : 0;
    self->blocking = blocking == 1;
    return blocking < 0 ? -1 : 0;
}

/* Find the scheduler of the loop that runs here, which will resume it. */
static bool waiter_find_scheduler(Waiter *self) {
    if (self->scheduler == NULL) {
        self->not_reusable |= FOR_A_TASK;
        self->scheduler = scheduler_here(self->state);
    }
    return self->scheduler != NULL;
}

static PyObject *itself(PyObject *self, PyObject *unused) {
    return Py_NewRef(self);
}

static PyMethodDef itself_method = {"get_loop", PLAIN(itself), "The loop that resumes it."};

/* `get_loop` and `result` are attributes and no methods: a task reads both each time it parks, and with
 * methods a hop between plain tasks takes 7 % more instructions. */
static PyObject *waiter_get_loop(Waiter *self, void *closure) {
    PyObject *loop = waiter_find_scheduler(self) ? need_loop(self->scheduler) : NULL;
    PyObject *get_loop = loop != NULL ? PyCFunction_New(&itself_method, loop) : NULL;
    Py_XDECREF(loop);
    return get_loop;
}

static PyObject *raise_cancellation(Waiter *self, PyObject *unused) {
    return raise_new(cancellation_of(self));
}

static PyMethodDef cancelled_result = {"result", PLAIN(raise_cancellation), NULL};

static PyObject *waiter_get_result(Waiter *self, void *closure) {
    if (self->claim == CANCELLED)
        return PyCFunction_New(&cancelled_result, (PyObject *)self);
    return Py_NewRef(self->state->no_result);
}

static PyObject *waiter_add_done_callback(Waiter *self, PyObject *const *args, Py_ssize_t count,
                                           PyObject *names) {
    Py_ssize_t named = names != NULL ? PyTuple_GET_SIZE(names) : 0;
    if (count != 1 || named > 1)
        return PyErr_Format(PyExc_TypeError, "add_done_callback(callback, *, context=None)");
    if (!waiter_find_scheduler(self))
        return NULL;
    double since = scheduler_now(self->scheduler); /* may run user code */
    if ((self->phase != PARKED && self->phase != YIELDED) || self->driver_kind != NO_DRIVER)
        return PyObject_CallOneArg(self->state->raise_no_callback, (PyObject *)self);
    bool given = named == 1 && !Py_IsNone(args[1]);
    PyObject *context = given ? Py_NewRef(args[1]) : PyContext_CopyCurrent();
    if (context == NULL)
        return NULL;
    self->context = context;
    self->driver = Py_NewRef(args[0]);
    self->driver_kind = TASK;
    if (self->phase == YIELDED)
        scheduler_push_yielded(self->scheduler, Py_NewRef(self));
    else if (self->claim != UNCLAIMED)
        wake_waiter(self);
    else
        self->since = since;
    Py_RETURN_NONE;
}

static PyObject *waiter_cancel(Waiter *self, PyObject *message) {
    return PyBool_FromLong(cancel_waiter(self, message));
}

/* _wake(claim): false if it was claimed or is not parked. HAPPENED is for a case whose source is done:
 * the operation, or its select, happened. */
static PyObject *waiter_wake(Waiter *self, PyObject *how) {
    long number = PyLong_AsLong(how);
    if (number < (self->kind == DONE ? HAPPENED : ATTEMPT_AGAIN) || number > CANCELLED)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "%ld is no claim", number);
    Operation *winner = number == HAPPENED ? (Operation *)self : NULL;
    Waiter *waiter = winner != NULL ? waiter_of(winner) : self;
    return PyBool_FromLong(claim_and_wake(waiter, (uint8_t)number, winner));
}

/* --- the type ------------------------------------------------------------------------------------- */

static int waiter_traverse(Waiter *waiter, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(waiter));
    VISIT_ALL(waiter->scheduler, waiter->cancel_messages);
    return 0;
}

static void waiter_finalize(PyObject *self) {
    Waiter *waiter = (Waiter *)self;
    waiter->not_reusable |= FOR_GOOD; /* the collector has marked it as finalised */
    if (waiter->phase != FRESH)
        return;
    PyObject *pending = PyErr_GetRaisedException();
    if (!answered(PyObject_CallOneArg(waiter->state->warn_unused, self)))
        PyErr_WriteUnraisable(self);
    PyErr_SetRaisedException(pending);
}

static PyGetSetDef waiter_getset[] = {
    {"_asyncio_future_blocking", (getter)waiter_get_blocking, (setter)waiter_set_blocking, NULL,
     NULL},
    {"get_loop", (getter)waiter_get_loop, NULL, NULL, NULL},
    {"result", (getter)waiter_get_result, NULL, NULL, NULL},
    {NULL},
};

static PyMemberDef waiter_members[] = {
    {"since", T_DOUBLE, offsetof(Waiter, since), READONLY,
     "The loop's time at which a task parked here."},
    {"_phase", T_UBYTE, offsetof(Waiter, phase), READONLY, NULL},
    {"_claim", T_UBYTE, offsetof(Waiter, claim), READONLY, NULL},
    {"_driver", T_OBJECT, offsetof(Waiter, driver), 0, NULL},
    {NULL},
};

static PyMethodDef waiter_methods[] = {
    {"add_done_callback", FAST_NAMED(waiter_add_done_callback),
     "add_done_callback($self, callback, /, *, context=None)\n--\n\n"
     "TypeError, as for asyncio.wait: what is not awaited yet is no future."},
    {"_cancel", ONE(waiter_cancel), NULL},
    {"_interrupted", ONE(waiter_interrupted), NULL},
    {"_wake", ONE(waiter_wake), NULL},
    {NULL},
};

static PyType_Slot waiter_slots[] = {
    {Py_tp_doc, "What can be parked: the common part of operations and selects."},
    {Py_tp_finalize, waiter_finalize},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, waiter_iternext},
    {Py_am_await, waiter_await},
    {Py_tp_methods, waiter_methods},
    {Py_tp_members, waiter_members},
    {Py_tp_getset, waiter_getset},
    {0, NULL},
};

static PyType_Spec waiter_spec = SPEC(Waiter, Waiter, MADE_HERE | Py_TPFLAGS_BASETYPE, waiter_slots);
