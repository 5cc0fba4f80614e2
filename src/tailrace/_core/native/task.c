/* The rest of the Task protocol: what an actor is asked by asyncio, anyio and people.
 *
 * What no step waits for (names, results, `repr`, stacks) is written in Python, in `tasks.py`.
 */
#include "native.h"

static void actor_dealloc(PyObject *object);

/* The type of asyncio that an actor is one of. */
static PyTypeObject *
asyncio_future(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    while (type->tp_dealloc != actor_dealloc)
        type = type->tp_base;
    return type->tp_base;
}

/* --- making and unmaking ----------------------------------------------------------------------- */

static PyObject *
new_name(State *state, PyObject *name)
{
    if (Py_IsNone(name))
        return PyUnicode_FromFormat("Task-%zd", ++state->actors_named);
    return PyUnicode_CheckExact(name) ? Py_NewRef(name) : PyObject_Str(name);
}

static int
check_coroutine(State *state, PyObject *coroutine)
{
    int good = truth(PyObject_CallOneArg(state->iscoroutine, coroutine));
    if (good == 0)
        PyErr_Format(PyExc_TypeError, "a coroutine was expected, got %R", coroutine);
    return good == 1 ? 0 : -1;
}

static int
actor_init(Actor *self, PyObject *args, PyObject *named)
{
    static char *names[] = {"coro", "loop", "name", "context", "eager_start", NULL};
    PyObject *coroutine, *loop = Py_None, *name = Py_None, *context = Py_None, *eager = Py_None;
    State *state = state_of((PyObject *)self);
    if (!PyArg_ParseTupleAndKeywords(args, named, "O|$OOOO:Actor", names, &coroutine, &loop, &name,
                                     &context, &eager) ||
        check_coroutine(state, coroutine) < 0)
        return -1;
    loop = Py_IsNone(loop) ? PyObject_CallNoArgs(state->get_event_loop) : Py_NewRef(loop);
    Scheduler *scheduler = loop != NULL ? scheduler_of(state, loop) : NULL;
    PyObject *own = scheduler != NULL ? new_name(state, name) : NULL;
    int failed = own == NULL ? -1 : actor_begin(self, scheduler, coroutine, own, context);
    if (failed == 0)
        failed = step_soon(self); /* in the order in which asyncio would start a task */
    Py_XDECREF(own);
    Py_XDECREF(scheduler);
    Py_XDECREF(loop);
    return failed;
}

static int
actor_traverse(PyObject *object, visitproc visit, void *arg)
{
    Actor *self = (Actor *)object;
    Py_VISIT(self->scheduler);
    Py_VISIT(self->coroutine);
    Py_VISIT(self->context);
    Py_VISIT(self->name);
    Py_VISIT(self->waiting);
    Py_VISIT(self->thrown);
    Py_VISIT(self->cancel_message);
    Py_VISIT(self->cancelled_error);
    Py_VISIT(self->after);
    Py_VISIT(self->on_end);
    return asyncio_future(object)->tp_traverse(object, visit, arg);
}

static int
actor_clear(PyObject *object)
{
    Actor *self = (Actor *)object;
    self->ended = true; /* whoever still calls it finds nothing to do */
    Py_CLEAR(self->coroutine);
    Py_CLEAR(self->context);
    Py_CLEAR(self->name);
    Py_CLEAR(self->waiting);
    Py_CLEAR(self->thrown);
    Py_CLEAR(self->cancel_message);
    Py_CLEAR(self->cancelled_error);
    Py_CLEAR(self->after);
    Py_CLEAR(self->on_end);
    Py_CLEAR(self->scheduler);
    return asyncio_future(object)->tp_clear(object);
}

static void
actor_finalize(PyObject *object)
{
    Actor *self = (Actor *)object;
    if (!self->ended && self->log_destroy_pending && self->scheduler != NULL) {
        PyObject *pending = take_exception();
        if (!answered(PyObject_CallOneArg(self->scheduler->state->warn_lost, object)))
            PyErr_WriteUnraisable(object);
        raise_exception(pending);
    }
    asyncio_future(object)->tp_finalize(object);
}

static void
actor_dealloc(PyObject *object)
{
    PyTypeObject *future = asyncio_future(object);
#if PY_VERSION_HEX < 0x030C0000
    PyTypeObject *type = Py_TYPE(object);
#endif
    if (PyObject_CallFinalizerFromDealloc(object) < 0)
        return;
    PyObject_GC_UnTrack(object);
    actor_clear(object);
    future->tp_dealloc(object); /* from 3.12 it lets go of the type as well */
#if PY_VERSION_HEX < 0x030C0000
    Py_DECREF(type);
#endif
}

/* --- cancellation ------------------------------------------------------------------------------ */

static PyObject *
task_cancel(Actor *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t given = count + (names != NULL ? PyTuple_GET_SIZE(names) : 0);
    int taken = actor_cancel(self, given > 0 ? args[0] : Py_None);
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *
task_cancelling(Actor *self, PyObject *unused)
{
    return PyLong_FromLong(self->cancelling);
}

static PyObject *
task_uncancel(Actor *self, PyObject *unused)
{
    if (self->cancelling > 0 && --self->cancelling == 0)
        self->must_cancel = false;
    return PyLong_FromLong(self->cancelling);
}

/* --- what the Python part of it needs ----------------------------------------------------------- */

static PyMethodDef actor_methods[] = {
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

static PyType_Slot actor_slots[] = {
    {Py_tp_doc, "An actor as the native core runs it: a task in all but its type."},
    {Py_tp_init, actor_init},
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
