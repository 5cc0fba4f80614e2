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

/* _step(): step it for the first time, within the step of another task, or of none. The loop has no
 * current task meanwhile. */
static PyObject *step_within(Actor *self, PyObject *unused) {
    Scheduler *scheduler = self->scheduler;
    PyObject *current = scheduler->current; /* the outer task has a reference elsewhere */
    PyThreadState *thread = scheduler->thread;
    scheduler->current = NULL;
    PyObject *stepped = actor_step_soon(self, NULL);
    scheduler->current = current;
    scheduler->thread = thread;
    return stepped;
}

/* _begin(coroutine, loop, name, context, eager): start it, with what `__init__` has checked; an eager one is
 * stepped by `__init__`. Actors are started in the order in which asyncio would start tasks. */
static PyObject *task_begin(Actor *self, PyObject *args) {
    PyObject *coroutine, *loop, *name, *context;
    int eager;
    if (!PyArg_ParseTuple(args, "OOOOp", &coroutine, &loop, &name, &context, &eager))
        return NULL;
    Scheduler *scheduler = scheduler_of(state_of((PyObject *)self), loop);
    bool begun = scheduler != NULL && actor_begin(self, scheduler, coroutine, name, context) == 0 &&
                 (eager || step_soon(self) == 0);
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
        PyObject *pending = PyErr_GetRaisedException();
        if (!answered(PyObject_CallOneArg(self->scheduler->state->warn_lost, object)))
            PyErr_WriteUnraisable(object);
        PyErr_SetRaisedException(pending);
    }
    asyncio_future(object)->tp_finalize(object);
}

static void actor_dealloc(PyObject *object) {
    PyTypeObject *future = asyncio_future(object);
    PyTypeObject *type = Py_TYPE(object);
    if (PyObject_CallFinalizerFromDealloc(object) < 0)
        return;
    PyObject_GC_UnTrack(object);
    actor_clear(object);
    future->tp_dealloc(object); /* from 3.12 it drops the reference to the type as well */
    if (PY_VERSION_HEX < 0x030C0000)
        Py_DECREF(type);
}

/* --- the type ----------------------------------------------------------------------------------- */

static PyMethodDef actor_methods[] = {
    {"_begin", (PyCFunction)task_begin, METH_VARARGS, NULL},
    {"_step", PLAIN(step_within), NULL},
    {"_wakeup", ONE(actor_wakeup), NULL},
    {"_cancel", ONE(actor_cancel), NULL},
    {NULL},
};

static PyMemberDef actor_members[] = {
    {"_warns_when_lost", T_BOOL, offsetof(Actor, log_destroy_pending), 0, NULL},
    {"_after", T_OBJECT, offsetof(Actor, after), 0, NULL},
    {"_must_cancel", T_BOOL, offsetof(Actor, must_cancel), 0, NULL},
    {"_cancelling", T_INT, offsetof(Actor, cancelling), 0, NULL},
    {"_fut_waiter", T_OBJECT, offsetof(Actor, waiting), READONLY, NULL},
    {"_cancel_message", T_OBJECT, offsetof(Actor, cancel_message), 0, NULL},
    {"_cancelled_error", T_OBJECT, offsetof(Actor, cancelled_error), 0, NULL},
    {"_coro", T_OBJECT, offsetof(Actor, coroutine), READONLY, NULL},
    {"_context", T_OBJECT, offsetof(Actor, context), READONLY, NULL},
    {"_name", T_OBJECT, offsetof(Actor, name), 0, NULL},
    {"_number", T_PYSSIZET, offsetof(Actor, number), 0, NULL},
    {NULL},
};

static PyType_Slot actor_slots[] = {
    {Py_tp_doc, "An actor as the native core runs it: a task in all but its type."},
    {Py_tp_dealloc, actor_dealloc},
    {Py_tp_finalize, actor_finalize},
    {Py_tp_traverse, actor_traverse},
    {Py_tp_clear, actor_clear},
    {Py_tp_methods, actor_methods},
    {Py_tp_members, actor_members},
    {0, NULL},
};

static PyType_Spec actor_spec = SPEC(Actor, Actor, SUBCLASSED, actor_slots);
