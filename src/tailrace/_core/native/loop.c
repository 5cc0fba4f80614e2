/* What a scheduler knows of its event loop: whether it runs, whether it is reachable, and its time. */
#include "native.h"

/* --- its loop ---------------------------------------------------------------------------------- */

/* The event loop that runs in this thread, borrowed; NULL, without an error, if none does. */
static PyObject *running_loop(State *state) {
    Scheduler *active = active_here(state);
    if (active != NULL)
        return active->loop;
    PyObject *loop = PyObject_CallNoArgs(state->get_running_loop);
    if (loop == NULL) {
        PyErr_Clear();
        return NULL;
    }
    Py_DECREF(loop); /* the thread that runs the loop has another */
    return Py_IsNone(loop) ? NULL : loop;
}

/* The scheduler's loop: a reference, or NULL, without an error, once it was freed. */
static PyObject *take_loop(Scheduler *self) {
    PyObject *loop = NULL;
    if (self->alive == NULL)
        return NULL;
#if PY_VERSION_HEX >= 0x030D0000
    (void)PyWeakref_GetRef(self->alive, &loop);
#else
    loop = PyWeakref_GetObject(self->alive);
    loop = Py_IsNone(loop) ? NULL : Py_NewRef(loop);
#endif
    return loop;
}

/* The same; NULL with an error set once the loop was freed, hence closed. */
static PyObject *need_loop(Scheduler *self) {
    PyObject *loop = take_loop(self);
    if (loop == NULL)
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    return loop;
}

/* Whether its waiters can still be resumed: not those of a closed loop. */
static bool is_reachable(Scheduler *scheduler) {
    PyObject *loop = take_loop(scheduler);
    if (loop == NULL)
        return false;
    int closed = truth(PyObject_CallMethodNoArgs(loop, scheduler->state->str_is_closed));
    if (closed < 0) /* an error does not mean that it is closed */
        raise_soon(scheduler->state, loop);
    Py_DECREF(loop);
    return closed <= 0;
}

/* The loop was freed. The scheduler is too, unless a waiter still refers to it. */
static PyObject *scheduler_forget(Scheduler *self, PyObject *weak) {
    State *state = self->state;
    PyObject *key = self->loop != NULL ? PyLong_FromVoidPtr(self->loop) : NULL;
    self->loop = NULL;
    if (state->latest == self)
        state->latest = NULL;
    Py_CLEAR(self->alive); /* which refers to this callback */
    if (key == NULL || state->schedulers == NULL || PyDict_DelItem(state->schedulers, key) < 0)
        PyErr_Clear(); /* the module is being unloaded */
    Py_XDECREF(key);
    Py_RETURN_NONE;
}

static PyMethodDef forget_method = {"forget", ONE(scheduler_forget), NULL};

static PyObject *scheduler_make(State *state, PyObject *loop) {
    Scheduler *self = (Scheduler *)state->Scheduler->tp_alloc(state->Scheduler, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    self->stride = 1;
    self->now = -1.0;
    int timeless = 0;
    PyObject *parts = PyObject_CallOneArg(state->loop_parts, loop);
    PyObject *forget = PyCFunction_New(&forget_method, (PyObject *)self);
    if (parts != NULL && forget != NULL &&
        PyArg_ParseTuple(parts, "OOp", &self->clock, &self->context, &timeless)) {
        Py_INCREF(self->context);
        self->clock = Py_IsNone(self->clock) ? NULL : Py_NewRef(self->clock);
        self->timeless = timeless;
        self->alive = PyWeakref_NewRef(loop, forget);
        self->loop = loop;
    }
    Py_XDECREF(parts);
    Py_XDECREF(forget);
    if (self->alive == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* The scheduler of `loop`, made at its first use: a reference. They are found by the address of their
 * loop, while that lives. */
static Scheduler *scheduler_of(State *state, PyObject *loop) {
    if (state->latest != NULL && state->latest->loop == loop)
        return (Scheduler *)Py_NewRef(state->latest);
    PyObject *key = PyLong_FromVoidPtr(loop);
    PyObject *known = key != NULL ? PyDict_GetItemWithError(state->schedulers, key) : NULL;
    Py_XINCREF(known);
    if (known == NULL && !PyErr_Occurred() && (known = scheduler_make(state, loop)) != NULL &&
        PyDict_SetItem(state->schedulers, key, known) < 0)
        Py_CLEAR(known);
    Py_XDECREF(key);
    if (known != NULL)
        state->latest = (Scheduler *)known;
    return (Scheduler *)known;
}

/* The scheduler of the loop that runs here, a reference; NULL with an error set if none does. */
static Scheduler *scheduler_here(State *state) {
    PyObject *loop = running_loop(state);
    if (loop != NULL)
        return scheduler_of(state, loop);
    PyErr_SetString(PyExc_RuntimeError,
                    "no running event loop to wait on; from a thread use channel.sync");
    return NULL;
}

/* --- time -------------------------------------------------------------------------------------- */

/* The result of a clock, whose reference is taken, as seconds. */
static double seconds_of(PyObject *now) {
    double seconds = now != NULL ? PyFloat_AsDouble(now) : 0.0;
    Py_XDECREF(now);
    PyErr_Clear();
    return seconds;
}

/* The loop's time; within a step it is read once. */
static double scheduler_now(Scheduler *self) {
    if (self->now >= 0.0)
        return self->now;
    State *state = self->state;
    double now = seconds_of(self->clock != NULL  ? PyObject_CallNoArgs(self->clock)
                            : self->loop != NULL ? PyObject_CallMethodNoArgs(self->loop, state->str_time)
                                                 : NULL);
    if (active_here(state) == self)
        self->now = now;
    return now;
}
