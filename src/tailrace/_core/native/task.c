/* The rest of the Task protocol. Names, results, `repr` and stacks are written in Python: `bases.py`. */
#include "native.h"

static void actor_dealloc(PyObject *object);

/* The asyncio type of which an actor's type is a subclass. */
static PyTypeObject *asyncio_future(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    while (type->tp_dealloc != actor_dealloc)
        type = type->tp_base;
    return type->tp_base;
}

/* --- making and unmaking ----------------------------------------------------------------------- */

/* Step it for the first time, within the step of another task, or of none. */
static int step_at_once(Actor *self) {
    Scheduler *scheduler = self->scheduler;
    State *state = scheduler->state;
    if (PyContext_Enter(self->context) < 0) { /* entered already: asyncio refuses that too */
        self->ended = true;
        return -1;
    }
    PyContext_Exit(self->context);
    PyObject *current = scheduler->current; /* the outer task has a reference elsewhere */
    PyThreadState *thread = scheduler->thread;
    PyObject *given[] = {scheduler->loop, Py_None};
    PyObject *outer = PyObject_Vectorcall(state->swap_current_task, given, 2, NULL);
    if (outer == NULL)
        return -1;
    scheduler->current = NULL;
    PyObject *stepped = actor_step_soon(self, NULL);
    PyObject *error = take_exception();
    given[1] = outer;
    bool swapped = answered(PyObject_Vectorcall(state->swap_current_task, given, 2, NULL));
    Py_DECREF(outer);
    scheduler->current = current;
    scheduler->thread = thread;
    if (error != NULL)
        raise_exception(error);
    Py_XDECREF(stepped);
    return stepped != NULL && swapped ? 0 : -1;
}

/* _begin(coroutine, loop, name, context, eager): start it, with what `__init__` has checked. Actors are
 * started in the order in which asyncio would start tasks. */
static PyObject *task_begin(Actor *self, PyObject *args) {
    PyObject *coroutine, *loop, *name, *context;
    int eager;
    if (!PyArg_ParseTuple(args, "OOOOp", &coroutine, &loop, &name, &context, &eager))
        return NULL;
    Scheduler *scheduler = scheduler_of(state_of((PyObject *)self), loop);
    bool begun = scheduler != NULL && actor_begin(self, scheduler, coroutine, name, context) == 0 &&
                 (eager ? step_at_once(self) : step_soon(self)) == 0;
    Py_XDECREF(scheduler);
    return begun ? Py_NewRef(Py_None) : NULL;
}

static int actor_traverse(PyObject *object, visitproc visit, void *arg) {
    VISIT_ALL(((Actor *)object)->scheduler, ((Actor *)object)->on_end);
    return asyncio_future(object)->tp_traverse(object, visit, arg);
}

static int actor_clear(PyObject *object) {
    ((Actor *)object)->ended = true; /* later calls find nothing to do */
    CLEAR_ALL(((Actor *)object)->scheduler, ((Actor *)object)->on_end);
    return asyncio_future(object)->tp_clear(object);
}

static void actor_finalize(PyObject *object) {
    Actor *self = (Actor *)object;
    if (!self->ended && self->log_destroy_pending && self->scheduler != NULL) {
        PyObject *pending = take_exception();
        if (!answered(PyObject_CallOneArg(self->scheduler->state->warn_lost, object)))
            PyErr_WriteUnraisable(object);
        raise_exception(pending);
    }
    asyncio_future(object)->tp_finalize(object);
}

static void actor_dealloc(PyObject *object) {
    PyTypeObject *future = asyncio_future(object);
#if PY_VERSION_HEX < 0x030C0000
    PyTypeObject *type = Py_TYPE(object);
#endif
    if (PyObject_CallFinalizerFromDealloc(object) < 0)
        return;
    PyObject_GC_UnTrack(object);
    actor_clear(object);
    future->tp_dealloc(object); /* from 3.12 it drops the reference to the type as well */
#if PY_VERSION_HEX < 0x030C0000
    Py_DECREF(type);
#endif
}

/* --- cancellation ------------------------------------------------------------------------------ */

static PyObject *task_cancel(Actor *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *message = given_message(args, count, names);
    int taken = message != NULL ? actor_cancel(self, message) : -1;
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *task_cancelling(Actor *self, PyObject *unused) {
    return PyLong_FromLong(self->cancelling);
}

static PyObject *task_uncancel(Actor *self, PyObject *unused) {
    if (self->cancelling > 0 && --self->cancelling == 0)
        self->must_cancel = false;
    return PyLong_FromLong(self->cancelling);
}

/* --- the type ----------------------------------------------------------------------------------- */

static PyMethodDef actor_methods[] = {
    {"_begin", (PyCFunction)task_begin, METH_VARARGS, NULL},
    {"_wakeup", ONE(actor_wakeup), NULL},
    {"cancel", FAST_NAMED(task_cancel),
     "cancel($self, msg=None)\n--\n\n"
     "Have CancelledError raised in it at its await; False if it has ended."},
    {"cancelling", PLAIN(task_cancelling),
     "How many cancellations were not taken back."},
    {"uncancel", PLAIN(task_uncancel),
     "Take one cancellation back; how many are left."},
    {NULL},
};

static PyMemberDef actor_members[] = {
    {"_warns_when_lost", T_BOOL, offsetof(Actor, log_destroy_pending), 0, NULL},
    {"_after", T_OBJECT, offsetof(Actor, after), 0, NULL},
    {"_must_cancel", T_BOOL, offsetof(Actor, must_cancel), READONLY, NULL},
    {"_fut_waiter", T_OBJECT, offsetof(Actor, waiting), READONLY, NULL},
    {"_cancel_message", T_OBJECT, offsetof(Actor, cancel_message), 0, NULL},
    {"_cancelled_error", T_OBJECT, offsetof(Actor, cancelled_error), 0, NULL},
    {"_coro", T_OBJECT, offsetof(Actor, coroutine), READONLY, NULL},
    {"_context", T_OBJECT, offsetof(Actor, context), READONLY, NULL},
    {"_name", T_OBJECT, offsetof(Actor, name), 0, NULL},
    {"_number", T_PYSSIZET, offsetof(Actor, number), 0, NULL},
    {NULL},
};

/* What `isinstance` reads: tools and libraries that look for an `asyncio.Task` find one. */
static PyObject *actor_class(PyObject *self, void *closure) {
    State *state = state_of(self);
    return Py_NewRef(state->Task != NULL ? state->Task : (PyObject *)Py_TYPE(self));
}

static PyGetSetDef actor_getset[] = {
    {"__class__", actor_class, NULL, NULL, NULL},
    {NULL},
};

static PyType_Slot actor_slots[] = {
    {Py_tp_doc, "An actor as the native core runs it: a task in all but its type."},
    {Py_tp_getset, actor_getset},
    {Py_tp_dealloc, actor_dealloc},
    {Py_tp_finalize, actor_finalize},
    {Py_tp_traverse, actor_traverse},
    {Py_tp_clear, actor_clear},
    {Py_tp_methods, actor_methods},
    {Py_tp_members, actor_members},
    {0, NULL},
};

static PyType_Spec actor_spec = {
    .name = "tailrace._core.native.Actor",
    .basicsize = sizeof(Actor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = actor_slots,
};
