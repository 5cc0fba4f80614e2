/* Sleepers: what an operation or select is while whoever drives it sleeps.
 *
 * An operation sleeps for itself, a select for all of its cases. Whoever drives it attaches to it
 * when it yields itself: an actor by `attach_actor`, any other task by what a task expects of a
 * future, a thread by `_block`. It may be claimed before that: then the driver finds it claimed, and
 * is resumed at once. What is not in anybody's way (`throw`, `close`, `done`) is in `sleeping.py`.
 */
#include "native.h"

/* --- what drives it --------------------------------------------------------------------------- */

static inline void attach_actor(Sleeper *sleeper, Actor *actor) {
    Scheduler *scheduler = actor->scheduler;
    double now = scheduler_now(scheduler); /* may be code of others */
    if (sleeper->claim == UNCLAIMED)
        sleeper->since = now;
    sleeper->party = ACTOR;
    sleeper->blocking = false;
    sleeper->driver = Py_NewRef(actor);
    Py_XSETREF(sleeper->scheduler, (Scheduler *)Py_NewRef(scheduler));
    actor->waiting = Py_NewRef(sleeper);
    actor->parked = true;
    if (UNLIKELY(sleeper->claim != UNCLAIMED))
        wake_sleeper(sleeper);
}

/* Claim it for a cancellation; that counts even if it comes too late. */
static bool cancel_sleeper(Sleeper *sleeper, PyObject *message) {
    if (sleeper->phase == YIELDED) /* raised by the task itself, as it is resumed */
        return false;
    sleeper->encumbered |= FOR_GOOD;
    if (sleeper->messages == NULL)
        sleeper->messages = PyList_New(0);
    if (sleeper->messages == NULL || PyList_Append(sleeper->messages, message) < 0)
        PyErr_WriteUnraisable((PyObject *)sleeper);
    return claim_and_wake(sleeper, CANCELLED, NULL);
}

/* A new CancelledError, with a message unless that is NULL or None; NULL with an error set. */
static PyObject *new_cancellation(State *state, PyObject *message) {
    if (message == NULL || Py_IsNone(message))
        return PyObject_CallNoArgs(state->CancelledError);
    return PyObject_CallOneArg(state->CancelledError, message);
}

/* The same with the message of the first cancellation. */
static PyObject *cancellation_of(Sleeper *sleeper) {
    PyObject *messages = sleeper->messages;
    bool none = messages == NULL || PyList_GET_SIZE(messages) == 0;
    return new_cancellation(sleeper->state, none ? NULL : PyList_GET_ITEM(messages, 0));
}

static void sleeper_clear(Sleeper *sleeper) {
    sleeper->party = NOBODY;
    CLEAR_ALL(sleeper->scheduler, sleeper->messages);
}

static int sleeper_traverse(Sleeper *sleeper, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(sleeper));
    VISIT_ALL(sleeper->scheduler, sleeper->messages);
    return 0;
}

static void sleeper_finalize(PyObject *self) {
    Sleeper *sleeper = (Sleeper *)self;
    sleeper->encumbered |= FOR_GOOD; /* by the mark of having been finalised, if by nothing else */
    if (sleeper->phase != FRESH)
        return;
    PyObject *pending = take_exception();
    if (!answered(PyObject_CallOneArg(sleeper->state->warn_unused, self)))
        PyErr_WriteUnraisable(self);
    raise_exception(pending);
}

/* No longer asleep, and not because it happened: as if it had never been parked. */
static void unpark(Sleeper *sleeper, uint8_t phase) {
    sleeper_clear(sleeper);
    sleeper->phase = phase;
    sleeper->claim = UNCLAIMED;
    sleeper->ticket = 0;
}

static PySendResult yield_itself(Sleeper *sleeper, PyObject **result) {
    sleeper->blocking = true;
    *result = Py_NewRef(sleeper);
    return PYGEN_NEXT;
}

/* The budget is spent: whoever drives it stands at the back of the line of the ready. */
static NEVER_INLINE PySendResult yield_for_others(Sleeper *sleeper, PyObject **result) {
    if (running_loop(sleeper->state) != NULL)
        return yield_itself(sleeper, result);
    *result = Py_NewRef(Py_None);
    return PYGEN_NEXT;
}

/* --- awaiting ---------------------------------------------------------------------------------- */

/* As a generator says it: what code of others drives amid its own step (a loop that is asked whether
 * it is closed, an iterator of values) would stand in line twice, or send its value twice. */
static COLD PySendResult raise_busy(Sleeper *sleeper) {
    PyErr_Format(PyExc_RuntimeError, "%R is in a step already", (PyObject *)sleeper);
    return PYGEN_ERROR;
}

static COLD PySendResult raise_used(Sleeper *sleeper) {
    Py_XDECREF(PyObject_CallOneArg(sleeper->state->refuse_again, (PyObject *)sleeper));
    return PYGEN_ERROR;
}

/* What woke it: PYGEN_NEXT to go on. */
static PySendResult woken(Sleeper *sleeper, PyObject **result) {
    if (sleeper->kind == SELECT && release((Select *)sleeper) < 0)
        return PYGEN_ERROR;
    if (sleeper->kind == SEND_MANY)
        ((Operation *)sleeper)->count += sleeper->claim == HAPPENED;
    else if (sleeper->claim == HAPPENED || sleeper->claim == TIMED_OUT) {
        *result = sleeper->claim == TIMED_OUT ? PyTuple_Pack(2, Py_None, Py_None)
                  : sleeper->kind == SELECT   ? index_and_value((Select *)sleeper, SUCCESS)
                                              : outcome((Operation *)sleeper);
        return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
    }
    unpark(sleeper, sleeper->kind == SEND_MANY ? YIELDED : BEGUN);
    return PYGEN_NEXT;
}

/* Attempt, unless it happened while it slept or others must have their turn first. */
static ALWAYS_INLINE PySendResult go_on(Sleeper *sleeper, PyObject **result) {
    bool yielded = sleeper->phase == YIELDED;
    if (UNLIKELY(sleeper->phase == PARKED)) {
        if (sleeper->claim == UNCLAIMED) /* driven by hand */
            return yield_itself(sleeper, result);
        PySendResult how = woken(sleeper, result);
        if (how != PYGEN_NEXT)
            return how;
    }
    if (sleeper->kind == SEND_MANY)
        return send_many_step((Operation *)sleeper, yielded, result);
    if (UNLIKELY(!yielded && budget_is_spent(sleeper->state))) {
        sleeper->phase = YIELDED;
        return yield_for_others(sleeper, result);
    }
    if (UNLIKELY(sleeper->kind == SELECT))
        return select_step((Select *)sleeper, result);
    return operation_step((Operation *)sleeper, result);
}

static NEVER_INLINE PySendResult sleeper_step(Sleeper *sleeper, PyObject **result) {
    *result = NULL;
    if (UNLIKELY(sleeper->busy))
        return raise_busy(sleeper);
    if (UNLIKELY(sleeper->phase == SPENT))
        return raise_used(sleeper);
    sleeper->busy = true;
    PySendResult how = go_on(sleeper, result);
    sleeper->busy = false;
    if (how != PYGEN_NEXT)
        sleeper->phase = SPENT;
    return how;
}

/* Until it happened. That it did, while it slept, is what a resumed one finds most often. */
static PySendResult sleeper_send(PyObject *self, PyObject *arg, PyObject **result) {
    Sleeper *sleeper = (Sleeper *)self;
    if (sleeper->phase != PARKED || sleeper->claim != HAPPENED || sleeper->kind > NEXT)
        return sleeper_step(sleeper, result);
    sleeper->phase = SPENT;
    *result = outcome((Operation *)sleeper);
    return PYGEN_RETURN;
}

/* Return `value` (whose reference is taken) from an iterator's `__next__`, as 3.12 to 3.14 want
 * it: as a StopIteration. None costs nothing. Within a step of ours the exception is one that is
 * used again and again, as whoever awaits takes it apart at once. */
static PyObject *hand_out(State *state, PyObject *value) {
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

static PyObject *sleeper_iternext(PyObject *self) {
    PyObject *result;
    if (((Sleeper *)self)->phase == FRESH) { /* `a, b = channel.recv()`: an await was forgotten */
        PyErr_Format(PyExc_TypeError, "%R is not an iterator: await it", self);
        return NULL;
    }
    if (sleeper_send(self, Py_None, &result) == PYGEN_RETURN)
        return hand_out(((Sleeper *)self)->state, result);
    return result;
}

static PyObject *sleeper_await(Sleeper *self) {
    if (UNLIKELY(self->phase != FRESH)) {
        raise_used(self);
        return NULL;
    }
    self->phase = BEGUN;
    return Py_NewRef(self);
}

/* --- an exception at the await ------------------------------------------------------------------ */

/* Whether `interrupt` was a cancellation that is put off to the task's next await. */
static int put_off(Sleeper *sleeper, PyObject *interrupt) {
    State *state = sleeper->state;
    if (!PyObject_TypeCheck(interrupt, (PyTypeObject *)state->CancelledError))
        return 0;
    Py_ssize_t requests = sleeper->messages != NULL ? PyList_GET_SIZE(sleeper->messages) : 0;
    return truth(PyObject_CallFunction(state->rearmed, "On", interrupt, requests));
}

/* Give back what a receive was handed, and count what `send_many` has sent. */
static void undo(Operation *winner) {
    if (winner->base.kind == SEND_MANY)
        winner->count++;
    if (winner->base.kind != DONE && receives(winner) && winner->value != NULL)
        give_back(winner);
}

/* _interrupted(error): settle what an exception at the await means, None if it is merely given up.
 * True if that is to be raised; False if a send happened all the same, and goes on as if nothing
 * had been. */
static PyObject *sleeper_interrupted(Sleeper *self, PyObject *interrupt) {
    if (self->busy) {
        raise_busy(self);
        return NULL;
    }
    if (self->phase == SPENT) /* or a case: its select has what it came to, or the channel has */
        Py_RETURN_TRUE;
    bool parked = self->phase == PARKED, select = self->kind == SELECT;
    bool happened = parked && !claim(self, CANCELLED, NULL) && self->claim == HAPPENED;
    Operation *winner = select ? ((Select *)self)->winner : (Operation *)self;
    self->phase = SPENT;
    self->encumbered |= FOR_GOOD;
    int later = happened && sends(winner) ? put_off(self, interrupt) : 0;
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

/* --- what a task asks of a future ------------------------------------------------------------- */

static PyObject *sleeper_get_blocking(Sleeper *self, void *closure) {
    bool yields = self->phase == PARKED || self->phase == YIELDED;
    return yields ? PyBool_FromLong(self->blocking) : Py_NewRef(Py_None);
}

static int sleeper_set_blocking(Sleeper *self, PyObject *value, void *closure) {
    int blocking = value != NULL ? PyObject_IsTrue(value) : 0;
    self->blocking = blocking == 1;
    return blocking < 0 ? -1 : 0;
}

/* The scheduler of the loop that runs here, which it will be resumed by. */
static bool sleeper_find_scheduler(Sleeper *self) {
    if (self->scheduler == NULL) {
        self->encumbered |= FOR_A_TASK;
        self->scheduler = scheduler_here(self->state);
    }
    return self->scheduler != NULL;
}

static PyObject *itself(PyObject *self, PyObject *unused) {
    return Py_NewRef(self);
}

static PyMethodDef itself_method = {"get_loop", PLAIN(itself), "The loop that resumes it."};

/* An attribute and no method, as is `result`: a task asks for both each time it sleeps, and a bound
 * method costs as much as the rest of asking. */
static PyObject *sleeper_get_loop(Sleeper *self, void *closure) {
    PyObject *loop = sleeper_find_scheduler(self) ? take_loop(self->scheduler) : NULL;
    if (loop == NULL && !PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    PyObject *get_loop = loop != NULL ? PyCFunction_New(&itself_method, loop) : NULL;
    Py_XDECREF(loop);
    return get_loop;
}

static PyObject *raise_cancellation(Sleeper *self, PyObject *unused) {
    PyObject *error = cancellation_of(self);
    if (error != NULL)
        raise_exception(error);
    return NULL;
}

static PyMethodDef cancelled_result = {"result", PLAIN(raise_cancellation), NULL};

static PyObject *sleeper_get_result(Sleeper *self, void *closure) {
    if (self->claim == CANCELLED)
        return PyCFunction_New(&cancelled_result, (PyObject *)self);
    return Py_NewRef(self->state->no_result);
}

static PyObject *sleeper_add_done_callback(Sleeper *self, PyObject *const *args, Py_ssize_t count,
                                           PyObject *names) {
    PyObject *context = names != NULL && PyTuple_GET_SIZE(names) == 1 ? args[count] : Py_None;
    if (count != 1 || (names != NULL && PyTuple_GET_SIZE(names) > 1)) {
        PyErr_SetString(PyExc_TypeError, "add_done_callback(callback, *, context=None)");
        return NULL;
    }
    if (!sleeper_find_scheduler(self))
        return NULL;
    double since = scheduler_now(self->scheduler);
    PyObject *own = Py_IsNone(context) ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (own == NULL)
        return NULL;
    if ((self->phase != PARKED && self->phase != YIELDED) || self->party != NOBODY) {
        Py_DECREF(own);
        if (self->phase == FRESH)
            PyErr_Format(PyExc_TypeError,
                         "%R is no future: await it, or give it to select; "
                         "asyncio.wait takes tasks",
                         self);
        else
            PyErr_SetString(PyExc_RuntimeError,
                            "only the task that is parked here may wait for it");
        return NULL;
    }
    self->context = own;
    self->driver = Py_NewRef(args[0]);
    self->party = TASK;
    if (self->phase == YIELDED)
        scheduler_push_yielded(self->scheduler, Py_NewRef(self));
    else if (self->claim != UNCLAIMED)
        wake_sleeper(self);
    else
        self->since = since;
    Py_RETURN_NONE;
}

/* cancel(msg=None): the message, borrowed; NULL with an error set for other arguments. */
static PyObject *given_message(PyObject *const *args, Py_ssize_t count, PyObject *names) {
    Py_ssize_t named = names != NULL ? PyTuple_GET_SIZE(names) : 0;
    if (count + named == 0)
        return Py_None;
    if (count + named == 1 &&
        (named == 0 || PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "msg") == 0))
        return args[0];
    PyErr_SetString(PyExc_TypeError, "cancel() takes a message, msg=None, and nothing else");
    return NULL;
}

static PyObject *sleeper_cancel(Sleeper *self, PyObject *const *args, Py_ssize_t count,
                                PyObject *names) {
    PyObject *message = given_message(args, count, names);
    return message != NULL ? PyBool_FromLong(cancel_sleeper(self, message)) : NULL;
}

/* _wake(how): claim it by a timer, a thread's cancellation or timeout, a future that is done. */
static PyObject *sleeper_wake(Sleeper *self, PyObject *how) {
    long number = PyLong_AsLong(how);
    if (number <= UNCLAIMED || number > CANCELLED) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "nobody is woken for %ld", number);
        return NULL;
    }
    return PyBool_FromLong(claim_and_wake(self, (uint8_t)number, NULL));
}

static PyGetSetDef sleeper_getset[] = {
    {"_asyncio_future_blocking", (getter)sleeper_get_blocking, (setter)sleeper_set_blocking, NULL,
     NULL},
    {"get_loop", (getter)sleeper_get_loop, NULL, NULL, NULL},
    {"result", (getter)sleeper_get_result, NULL, NULL, NULL},
    {NULL},
};

static PyMemberDef sleeper_members[] = {
    {"since", T_DOUBLE, offsetof(Sleeper, since), READONLY,
     "The loop's time at which a task parked here."},
    {"_phase", T_UBYTE, offsetof(Sleeper, phase), READONLY, NULL},
    {"_claim", T_UBYTE, offsetof(Sleeper, claim), READONLY, NULL},
    {"_driver", T_OBJECT, offsetof(Sleeper, driver), 0, NULL},
    {NULL},
};

static PyMethodDef sleeper_methods[] = {
    {"add_done_callback", FAST_NAMED(sleeper_add_done_callback),
     "add_done_callback($self, callback, /, *, context=None)\n--\n\n"
     "TypeError, as for asyncio.wait: what is not awaited yet is no future."},
    {"cancel", FAST_NAMED(sleeper_cancel), NULL},
    {"_interrupted", ONE(sleeper_interrupted), NULL},
    {"_wake", ONE(sleeper_wake), NULL},
    {NULL},
};

static PyType_Slot sleeper_slots[] = {
    {Py_tp_doc, "What may be parked: the common part of operations and selects."},
    {Py_tp_methods, sleeper_methods},
    {Py_tp_members, sleeper_members},
    {Py_tp_getset, sleeper_getset},
    {0, NULL},
};

static PyType_Spec sleeper_spec = {
    .name = "tailrace._core.native.Sleeper",
    .basicsize = sizeof(Sleeper),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = sleeper_slots,
};
