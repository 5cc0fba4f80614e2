/* Sleepers: what an operation or select is while whoever drives it sleeps.
 *
 * An operation sleeps for itself, a select for all of its cases. Whoever drives it attaches to it
 * when it yields itself: an actor by `attach_actor`, any other task by what a task expects of a
 * future, a thread by `_block`. It may be claimed before that: then the driver finds it claimed, and
 * is resumed at once. What is not in anybody's way (`throw`, `close`, `done`) is in `sleeping.py`.
 */
#include "native.h"

/* --- what drives it --------------------------------------------------------------------------- */

static inline void
attach_actor(Sleeper *sleeper, Actor *actor)
{
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
static bool
cancel_sleeper(Sleeper *sleeper, PyObject *message)
{
    sleeper->encumbered |= FOR_GOOD;
    if (sleeper->messages == NULL)
        sleeper->messages = PyList_New(0);
    if (sleeper->messages == NULL || PyList_Append(sleeper->messages, message) < 0)
        PyErr_WriteUnraisable((PyObject *)sleeper);
    return claim_and_wake(sleeper, CANCELLED, NULL);
}

/* A new CancelledError with the message of the first cancellation; NULL with an error set. */
static PyObject *
cancellation_of(Sleeper *sleeper)
{
    PyObject *type = sleeper->state->CancelledError;
    PyObject *messages = sleeper->messages;
    if (messages == NULL || PyList_GET_SIZE(messages) == 0 || Py_IsNone(PyList_GET_ITEM(messages, 0)))
        return PyObject_CallNoArgs(type);
    return PyObject_CallOneArg(type, PyList_GET_ITEM(messages, 0));
}

static void
sleeper_clear(Sleeper *sleeper)
{
    sleeper->party = NOBODY;
    Py_CLEAR(sleeper->scheduler);
    Py_CLEAR(sleeper->driver);
    Py_CLEAR(sleeper->context);
    Py_CLEAR(sleeper->messages);
}

static int
sleeper_traverse(Sleeper *sleeper, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(sleeper));
    Py_VISIT(sleeper->scheduler);
    Py_VISIT(sleeper->driver);
    Py_VISIT(sleeper->context);
    Py_VISIT(sleeper->messages);
    return 0;
}

/* No longer asleep, and not because it happened: as if it had never been parked. */
static void
unpark(Sleeper *sleeper, uint8_t phase)
{
    sleeper_clear(sleeper);
    sleeper->phase = phase;
    sleeper->claim = UNCLAIMED;
    sleeper->ticket = 0;
}

/* As a generator says it; what code of others drives amid its own step (a loop that is asked whether
 * it is closed, an iterator of values) would stand in line twice, or send its value twice. */
static COLD PySendResult
raise_busy(Sleeper *sleeper)
{
    PyErr_Format(PyExc_RuntimeError, "%R is in a step already", (PyObject *)sleeper);
    return PYGEN_ERROR;
}

static PySendResult
yield_itself(Sleeper *sleeper, PyObject **result)
{
    sleeper->blocking = true;
    *result = Py_NewRef(sleeper);
    return PYGEN_NEXT;
}

/* --- an exception at the await ------------------------------------------------------------------ */

/* Whether `interrupt` was a cancellation that is put off to the task's next await. */
static int
put_off(Sleeper *sleeper, PyObject *interrupt)
{
    State *state = sleeper->state;
    if (!PyObject_TypeCheck(interrupt, (PyTypeObject *)state->CancelledError))
        return 0;
    Py_ssize_t requests = sleeper->messages != NULL ? PyList_GET_SIZE(sleeper->messages) : 0;
    return truth(PyObject_CallFunction(state->rearmed, "On", interrupt, requests));
}

/* Give back what a receive was handed, and count what `send_many` has sent. */
static bool
undo(Operation *winner)
{
    PyObject *value = winner->value;
    if (winner->base.kind == SEND_MANY)
        ((Many *)winner)->count++;
    if (winner->base.kind == DONE || !receives(winner) || value == NULL)
        return true;
    winner->value = NULL;
    return channel_give_back(winner->channel, winner->base.ticket, value);
}

/* _interrupted(error): settle what an exception at the await means, None if it is merely given up.
 * True if that is to be raised; False if a send happened all the same, and goes on as if nothing
 * had been. */
static PyObject *
sleeper_interrupted(Sleeper *self, PyObject *interrupt)
{
    if (self->busy) {
        raise_busy(self);
        return NULL;
    }
    bool parked = self->phase == PARKED;
    bool happened = parked && !claim(self, CANCELLED, NULL) && self->claim == HAPPENED;
    Operation *winner = is_select(self) ? ((Select *)self)->winner : (Operation *)self;
    self->phase = SPENT;
    self->encumbered |= FOR_GOOD;
    int later = happened && sends(winner) ? put_off(self, interrupt) : 0;
    if (later > 0) {
        self->phase = PARKED;
        Py_RETURN_FALSE;
    }
    if (later == 0 && parked)
        later = is_select(self) ? release((Select *)self) : withdraw_done(winner);
    if (later < 0 || (happened && !undo(winner)))
        return NULL;
    if (!is_select(self))
        Py_CLEAR(winner->value);
    Py_RETURN_TRUE;
}

/* --- what a task asks of a future ------------------------------------------------------------- */

static PyObject *
sleeper_get_blocking(Sleeper *self, void *closure)
{
    return self->phase == PARKED ? PyBool_FromLong(self->blocking) : Py_NewRef(Py_None);
}

static int
sleeper_set_blocking(Sleeper *self, PyObject *value, void *closure)
{
    int blocking = value != NULL ? PyObject_IsTrue(value) : 0;
    self->blocking = blocking == 1;
    return blocking < 0 ? -1 : 0;
}

/* The scheduler of the loop that runs here, which it will be resumed by. */
static bool
sleeper_find_scheduler(Sleeper *self)
{
    if (self->scheduler == NULL) {
        self->encumbered |= FOR_A_TASK;
        self->scheduler = scheduler_here(self->state);
    }
    return self->scheduler != NULL;
}

/* An attribute and no method, as is `result`: a task asks for both each time it sleeps, and a bound
 * method costs as much as the rest of asking. */
static PyObject *
sleeper_get_loop(Sleeper *self, void *closure)
{
    return sleeper_find_scheduler(self) ? Py_NewRef(self->scheduler->get_loop) : NULL;
}

static PyObject *
raise_cancellation(Sleeper *self, PyObject *unused)
{
    PyObject *error = cancellation_of(self);
    if (error != NULL)
        raise_exception(error);
    return NULL;
}

static PyMethodDef cancelled_result = {"result", PLAIN(raise_cancellation), NULL};

static PyObject *
sleeper_get_result(Sleeper *self, void *closure)
{
    if (self->claim == CANCELLED)
        return PyCFunction_New(&cancelled_result, (PyObject *)self);
    return Py_NewRef(self->state->no_result);
}

static PyObject *
sleeper_add_done_callback(Sleeper *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
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
    if (self->phase != PARKED || self->party != NOBODY) {
        Py_DECREF(own);
        PyErr_SetString(PyExc_RuntimeError, "only the task that is parked here may wait for it");
        return NULL;
    }
    self->context = own;
    self->driver = Py_NewRef(args[0]);
    self->party = TASK;
    if (self->claim != UNCLAIMED)
        wake_sleeper(self);
    else
        self->since = since;
    Py_RETURN_NONE;
}

static PyObject *
sleeper_cancel(Sleeper *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t given = count + (names != NULL ? PyTuple_GET_SIZE(names) : 0);
    return PyBool_FromLong(cancel_sleeper(self, given > 0 ? args[0] : Py_None));
}

/* _wake(how): claim it by a timer, a thread's cancellation or timeout, a future that is done. */
static PyObject *
sleeper_wake(Sleeper *self, PyObject *how)
{
    long number = PyLong_AsLong(how);
    if (number <= UNCLAIMED || number > CANCELLED) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "nobody is woken for %ld", number);
        return NULL;
    }
    return PyBool_FromLong(claim_and_wake(self, (uint8_t)number, NULL));
}

static PyGetSetDef sleeper_getset[] = {
    {"_asyncio_future_blocking", (getter)sleeper_get_blocking, (setter)sleeper_set_blocking, NULL, NULL},
    {"get_loop", (getter)sleeper_get_loop, NULL, NULL, NULL},
    {"result", (getter)sleeper_get_result, NULL, NULL, NULL},
    {NULL},
};

static PyMemberDef sleeper_members[] = {
    {"since", T_DOUBLE, offsetof(Sleeper, since), READONLY, "The loop's time at which a task parked here."},
    {"_phase", T_UBYTE, offsetof(Sleeper, phase), READONLY, NULL},
    {"_claim", T_UBYTE, offsetof(Sleeper, claim), READONLY, NULL},
    {"_driver", T_OBJECT, offsetof(Sleeper, driver), 0, NULL},
    {NULL},
};

static PyMethodDef sleeper_methods[] = {
    {"add_done_callback", FAST_NAMED(sleeper_add_done_callback), NULL},
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
