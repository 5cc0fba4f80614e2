/* Sleepers: how whoever cannot go on is parked, claimed by one peer, and woken.
 *
 * An operation sleeps for itself, a select for all of its cases. Whoever drives it attaches to it
 * when it yields itself: an actor by `attach_actor`, any other task by the methods that a task
 * expects of a future, a thread by `_block`. It may be claimed before that: then the driver finds
 * it claimed, and is resumed at once.
 */
#include "native.h"

/* Take a sleeper for `how`, unless it is taken: atomic. The references of its lines to it are
 * dropped, all but that of the winner, who was taken out of line by its peer. */
static bool
claim(Sleeper *sleeper, uint8_t how, Operation *winner)
{
    if (sleeper->claim != UNCLAIMED)
        return false;
    sleeper->claim = how;
    if (Py_IS_TYPE(sleeper, sleeper->state->Select))
        select_leave((Select *)sleeper, winner);
    else if (sleeper->queued) {
        Operation *operation = (Operation *)sleeper;
        queue_unlink(queue_of(operation), operation);
        Py_DECREF(operation); /* frees nothing: the caller has one */
    }
    return true;
}

/* Have the driver of a claimed sleeper resumed. */
static inline void
wake_sleeper(Sleeper *sleeper)
{
    PyObject *driver = sleeper->driver;
    switch (sleeper->party) {
    case ACTOR: /* the driver's reference goes into the ring */
        sleeper->driver = NULL;
        sleeper->party = NOBODY;
        scheduler_push(((Actor *)driver)->scheduler, driver);
        break;
    case TASK:
        scheduler_push(sleeper->scheduler, Py_NewRef(sleeper));
        break;
    case THREAD: {
        PyObject *released = PyObject_CallMethodNoArgs(driver, sleeper->state->str_release);
        if (released == NULL)
            PyErr_WriteUnraisable(driver);
        Py_XDECREF(released);
        break;
    }
    default: /* nobody yet */
        break;
    }
}

/* Wake the party of a peer that was claimed; takes the reference to it. */
static void
wake(Operation *operation)
{
    wake_sleeper(sleeper_of(operation));
    Py_DECREF(operation);
}

/* A future, task or event that a `done` case watches is done: it or its select happened. */
static void
wake_done(Operation *operation)
{
    Sleeper *sleeper = sleeper_of(operation);
    if (sleeper->phase == PARKED && claim(sleeper, HAPPENED, operation))
        wake_sleeper(sleeper);
}

static bool
claim_and_wake(Sleeper *sleeper, uint8_t how)
{
    if (sleeper->phase != PARKED || !claim(sleeper, how, NULL))
        return false;
    wake_sleeper(sleeper);
    return true;
}

/* Tell a value that an overflow policy dropped (and whose reference is taken), if it wants to know. */
static void
pay_discarded(State *state, PyObject *value)
{
    PyObject *told = PyObject_GetAttr((PyObject *)Py_TYPE(value), state->str_discarded);
    if (told == NULL)
        PyErr_Clear();
    else {
        PyObject *answer = PyObject_CallFunctionObjArgs(told, value, state->str_overflow, NULL);
        if (answer == NULL)
            PyErr_WriteUnraisable(told);
        Py_XDECREF(answer);
        Py_DECREF(told);
    }
    Py_DECREF(value);
}

/* Do what an atomic section left to be done. */
static inline void
pay(State *state, Effects *effects)
{
    if (effects->woken != NULL)
        wake(effects->woken);
    if (effects->discarded != NULL)
        pay_discarded(state, effects->discarded);
}

/* --- what drives it --------------------------------------------------------------------------- */

static void
attach_actor(Sleeper *sleeper, Actor *actor)
{
    sleeper->party = ACTOR;
    sleeper->blocking = false;
    sleeper->driver = Py_NewRef(actor);
    sleeper->since = scheduler_now(actor->scheduler);
    actor->waiting = Py_NewRef(sleeper);
    actor->parked = true;
    if (sleeper->claim != UNCLAIMED)
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
    return claim_and_wake(sleeper, CANCELLED);
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

/* Whether `interrupt` was a cancellation that is put off to the task's next await. */
static int
rearmed(Sleeper *sleeper, PyObject *interrupt)
{
    State *state = sleeper->state;
    if (interrupt == NULL || !PyObject_TypeCheck(interrupt, (PyTypeObject *)state->CancelledError))
        return 0;
    Py_ssize_t requests = sleeper->messages != NULL ? PyList_GET_SIZE(sleeper->messages) : 0;
    PyObject *answer = PyObject_CallFunction(state->rearmed, "On", interrupt, requests);
    int put_off = answer != NULL ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return put_off;
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

static PyObject *
sleeper_get_parked(Sleeper *self, void *closure)
{
    return PyBool_FromLong(self->phase == PARKED && self->claim == UNCLAIMED);
}

static PyObject *
sleeper_get_since(Sleeper *self, void *closure)
{
    return PyFloat_FromDouble(self->since);
}

static PyObject *
sleeper_get_unused(Sleeper *self, void *closure)
{
    return PyBool_FromLong(self->phase == FRESH);
}

static PyObject *
sleeper_get_claim(Sleeper *self, void *closure)
{
    return PyLong_FromLong(self->claim);
}

/* The scheduler of the loop that runs here, which it will be resumed by. */
static int
sleeper_find_scheduler(Sleeper *self)
{
    if (self->scheduler != NULL)
        return 0;
    self->encumbered |= FOR_A_TASK;
    self->scheduler = scheduler_here(self->state);
    return self->scheduler != NULL ? 0 : -1;
}

/* An attribute and no method, as is `result`: a task asks for both each time it sleeps, and a bound
 * method costs as much as the rest of asking. */
static PyObject *
sleeper_get_loop(Sleeper *self, void *closure)
{
    return sleeper_find_scheduler(self) < 0 ? NULL : Py_NewRef(self->scheduler->get_loop);
}

static PyObject *
sleeper_add_done_callback(Sleeper *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *context = names != NULL && PyTuple_GET_SIZE(names) == 1 ? args[count] : Py_None;
    if (count != 1 || (names != NULL && PyTuple_GET_SIZE(names) > 1)) {
        PyErr_SetString(PyExc_TypeError, "add_done_callback(callback, *, context=None)");
        return NULL;
    }
    if (self->phase != PARKED || self->party != NOBODY) {
        PyErr_SetString(PyExc_RuntimeError, "only the task that is parked here may wait for it");
        return NULL;
    }
    if (sleeper_find_scheduler(self) < 0)
        return NULL;
    PyObject *own = Py_IsNone(context) ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (own == NULL)
        return NULL;
    double since = scheduler_now(self->scheduler);
    if (self->party != NOBODY) {
        Py_DECREF(own);
        PyErr_SetString(PyExc_RuntimeError, "only one task can be parked here");
        return NULL;
    }
    self->since = since;
    self->context = own;
    self->driver = Py_NewRef(args[0]);
    self->party = TASK;
    if (self->claim != UNCLAIMED)
        wake_sleeper(self);
    Py_RETURN_NONE;
}

static PyObject *
raise_cancellation(Sleeper *self, PyObject *unused)
{
    PyObject *error = cancellation_of(self);
    if (error != NULL)
        raise_exception(error);
    return NULL;
}

static PyMethodDef cancelled_result = {"result", (PyCFunction)raise_cancellation, METH_NOARGS, NULL};

static PyObject *
sleeper_get_result(Sleeper *self, void *closure)
{
    if (self->claim == CANCELLED)
        return PyCFunction_New(&cancelled_result, (PyObject *)self);
    return Py_NewRef(self->state->no_result);
}

static PyObject *
sleeper_cancel(Sleeper *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t given = count + (names != NULL ? PyTuple_GET_SIZE(names) : 0);
    return PyBool_FromLong(cancel_sleeper(self, given > 0 ? args[0] : Py_None));
}

static PyObject *
sleeper_done(Sleeper *self, PyObject *unused)
{
    return PyBool_FromLong(self->claim != UNCLAIMED);
}

static PyObject *
sleeper_cancelled(Sleeper *self, PyObject *unused)
{
    return PyBool_FromLong(self->claim == CANCELLED);
}

/* Claim it by something that is no operation: a timer, a thread's cancellation, a `done` case. */
static PyObject *
sleeper_claim_by_number(Sleeper *self, PyObject *how)
{
    long number = PyLong_AsLong(how);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(claim_and_wake(self, (uint8_t)number));
}

static PyGetSetDef sleeper_getset[] = {
    {"_asyncio_future_blocking", (getter)sleeper_get_blocking, (setter)sleeper_set_blocking, NULL, NULL},
    {"get_loop", (getter)sleeper_get_loop, NULL, NULL, NULL},
    {"result", (getter)sleeper_get_result, NULL, NULL, NULL},
    {"parked", (getter)sleeper_get_parked, NULL, "Whether somebody sleeps in it, whom nobody has woken.", NULL},
    {"since", (getter)sleeper_get_since, NULL, "The loop's time at which a task parked here.", NULL},
    {"_unused", (getter)sleeper_get_unused, NULL, NULL, NULL},
    {"_claim", (getter)sleeper_get_claim, NULL, NULL, NULL},
    {NULL},
};

static PyMethodDef sleeper_methods[] = {
    {"add_done_callback", (PyCFunction)(void (*)(void))sleeper_add_done_callback,
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"cancel", (PyCFunction)(void (*)(void))sleeper_cancel, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"done", (PyCFunction)sleeper_done, METH_NOARGS, NULL},
    {"cancelled", (PyCFunction)sleeper_cancelled, METH_NOARGS, NULL},
    {"_wake", (PyCFunction)sleeper_claim_by_number, METH_O, NULL},
    {NULL},
};

static PyType_Slot sleeper_slots[] = {
    {Py_tp_doc, "What may be parked: the common part of operations and selects."},
    {Py_tp_methods, sleeper_methods},
    {Py_tp_getset, sleeper_getset},
    {0, NULL},
};

static PyType_Spec sleeper_spec = {
    .name = "tailrace._core.native.Sleeper",
    .basicsize = sizeof(Sleeper),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = sleeper_slots,
};

/* --- handing out what was received ------------------------------------------------------------ */

/* Return `value` (whose reference is taken) from an iterator's `__next__`, as 3.12 to 3.14 want
 * it: as a StopIteration. None costs nothing. Within a step of ours the exception is one that is
 * used again and again, as whoever awaits takes it apart at once. */
static PyObject *
hand_out(State *state, PyObject *value)
{
    if (Py_IsNone(value)) {
        Py_DECREF(value);
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *stop = state->stop_iteration;
    if (stop != NULL && Py_REFCNT(stop) == 1 && active_here(state) != NULL) {
        /* Python code that caught it left its traceback: it would grow, and hold frames. */
        if (((PyBaseExceptionObject *)stop)->traceback != NULL)
            Py_CLEAR(((PyBaseExceptionObject *)stop)->traceback);
        Py_XSETREF(((PyStopIterationObject *)stop)->value, value);
        PyErr_SetRaisedException(Py_NewRef(stop));
        return NULL;
    }
#endif
    return hand_out_anew(value);
}

static PyObject *
hand_out_anew(PyObject *value) /* takes the reference */
{
    /* Made here: given to PyErr_SetObject, a tuple or exception would be taken apart. */
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    Py_DECREF(value);
    if (stop != NULL)
        raise_exception(stop);
    return NULL;
}

/* The exception that `throw(type_or_instance, value, traceback)` was called with: a reference. */
static PyObject *
interrupt_of(PyObject *const *args, Py_ssize_t count)
{
    PyObject *type = count > 0 ? args[0] : Py_None;
    PyObject *value = count > 1 && !Py_IsNone(args[1]) ? args[1] : NULL;
    PyObject *traceback = count > 2 && !Py_IsNone(args[2]) ? args[2] : NULL;
    PyObject *error = NULL;
    if (PyExceptionInstance_Check(type))
        error = Py_NewRef(type);
    else if (!PyExceptionClass_Check(type))
        PyErr_Format(PyExc_TypeError, "throw() takes an exception, not %R", type);
    else if (value != NULL && PyExceptionInstance_Check(value))
        error = Py_NewRef(value);
    else if (value != NULL && PyTuple_Check(value))
        error = PyObject_CallObject(type, value);
    else if (value != NULL)
        error = PyObject_CallOneArg(type, value);
    else
        error = PyObject_CallNoArgs(type);
    if (error != NULL && traceback != NULL && PyTraceBack_Check(traceback))
        PyException_SetTraceback(error, traceback);
    return error;
}

/* --- memory ----------------------------------------------------------------------------------- */

static int
sleeper_traverse(Sleeper *sleeper, visitproc visit, void *arg)
{
    Py_VISIT(sleeper->scheduler);
    Py_VISIT(sleeper->driver);
    Py_VISIT(sleeper->context);
    Py_VISIT(sleeper->messages);
    return 0;
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
