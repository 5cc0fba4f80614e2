/* Actor: a future-compatible task that the scheduler steps.
 *
 * It is a subclass of asyncio's own Future, which keeps its result and callbacks. What a task does
 * beyond that is here (the step) and in task.c (the rest of the Task protocol), after CPython's
 * `_asynciomodule.c` and, in what cancellation means, as 3.13 has it on every version.
 *
 * It is resumed in three ways: by the scheduler's turn, from a channel operation that was claimed
 * or after a bare yield; and by the callback of any other future that it awaits.
 */
#include "native.h"

/* --- the end ----------------------------------------------------------------------------------- */

/* Call a method of Future itself: those of Task refuse. */
static int
settle_future(PyObject *method, Actor *self, PyObject *argument)
{
    return answered(PyObject_CallFunctionObjArgs(method, self, argument, NULL)) ? 0 : -1;
}

static int
end_as_cancelled(Actor *self, PyObject *message)
{
    State *state = self->scheduler->state;
    PyObject *arguments[] = {(PyObject *)self, message != NULL ? message : Py_None};
    return answered(PyObject_Vectorcall(state->future_cancel, arguments, 1, state->msg_names)) ? 0 : -1;
}

/* Tell whoever started it that it has returned: at once, so that stages that end one after another
 * need no turns of the loop in between, but as part of no task. */
static int
tell_end(Actor *self)
{
    PyObject *on_end = self->on_end;
    if (on_end == NULL)
        return 0;
    self->on_end = NULL;
    State *state = self->scheduler->state;
    bool told = set_current(self->scheduler, NULL) == 0 &&
                answered(PyObject_CallOneArg(on_end, (PyObject *)self));
    Py_DECREF(on_end);
    if (!told && !PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) &&
        !PyErr_ExceptionMatches(PyExc_SystemExit)) {
        PyObject *error = take_exception();
        told = answered(PyObject_CallFunctionObjArgs(state->report_end, self, error, NULL));
        Py_DECREF(error);
    }
    return told ? 0 : -1;
}

/* That it raised is told by the loop, so that all failures of this turn are heard before the first
 * of them cancels the others. */
static int
tell_end_soon(Actor *self)
{
    PyObject *on_end = self->on_end;
    if (on_end == NULL)
        return 0;
    self->on_end = NULL;
    int failed = loop_call_soon(self->scheduler, on_end, (PyObject *)self);
    Py_DECREF(on_end);
    return failed;
}

static int
returned(Actor *self, PyObject *value) /* takes the reference */
{
    int failed;
    self->ended = true;
    if (self->must_cancel) { /* right before it ended */
        self->must_cancel = false;
        failed = end_as_cancelled(self, self->cancel_message);
    }
    else
        failed = settle_future(self->scheduler->state->future_set_result, self, value);
    Py_DECREF(value);
    return failed < 0 ? -1 : tell_end(self);
}

/* The coroutine raised: -1 for what must also end the loop. */
static int
raised(Actor *self)
{
    State *state = self->scheduler->state;
    PyObject *error = take_exception();
    self->ended = true;
    if (PyObject_TypeCheck(error, (PyTypeObject *)state->CancelledError)) {
        PyObject *args = ((PyBaseExceptionObject *)error)->args;
        Py_XSETREF(self->cancelled_error, error);
        if (end_as_cancelled(self, PyTuple_GET_SIZE(args) > 0 ? PyTuple_GET_ITEM(args, 0) : NULL) < 0)
            return -1;
        return tell_end_soon(self);
    }
    int failed = settle_future(state->future_set_exception, self, error);
    if (failed == 0)
        failed = tell_end_soon(self);
    if (failed == 0 && (PyErr_GivenExceptionMatches(error, PyExc_KeyboardInterrupt) ||
                        PyErr_GivenExceptionMatches(error, PyExc_SystemExit))) {
        raise_exception(error);
        return -1;
    }
    Py_DECREF(error);
    return failed;
}

/* --- what it yielded --------------------------------------------------------------------------- */

/* Have what is set as an exception raised in the coroutine, in a step of its own. */
static int
throw_soon(Actor *self)
{
    Py_XSETREF(self->thrown, take_exception());
    scheduler_push(self->scheduler, Py_NewRef(self));
    return 0;
}

/* It cannot wait for that: `refusal` says why. Takes the reference. */
static int
refuse(Actor *self, PyObject *yielded)
{
    Py_XDECREF(PyObject_CallFunctionObjArgs(self->scheduler->state->refusal, self, yielded, NULL));
    Py_DECREF(yielded);
    return throw_soon(self);
}

/* Whether a future belongs to another loop: 1, 0, or -1 with an error. */
static int
is_of_another_loop(Actor *self, PyObject *future)
{
    State *state = self->scheduler->state;
    PyObject *get_loop = PyObject_GetAttr(future, state->str_get_loop), *loop;
    if (get_loop != NULL)
        loop = PyObject_CallNoArgs(get_loop);
    else {
        PyErr_Clear();
        loop = PyObject_GetAttr(future, state->str__loop);
    }
    int other = loop == NULL ? -1 : loop != self->scheduler->loop;
    Py_XDECREF(get_loop);
    Py_XDECREF(loop);
    return other;
}

/* Pass a cancellation on to the future that it waits for: as that answers, whether it took it. */
static int
cancel_awaited(Actor *self, PyObject *message)
{
    State *state = self->scheduler->state;
    PyObject *arguments[] = {self->waiting, message != NULL ? message : Py_None};
    return truth(PyObject_VectorcallMethod(state->str_cancel, arguments, 1, state->msg_names));
}

static PyMethodDef wakeup_method, step_method;

static int
wait_for(Actor *self, PyObject *future) /* takes the reference */
{
    State *state = self->scheduler->state;
    PyObject *wakeup = PyCFunction_New(&wakeup_method, (PyObject *)self);
    bool added = false;
    if (wakeup != NULL && PyObject_SetAttr(future, state->str__asyncio_future_blocking, Py_False) == 0) {
        PyObject *arguments[] = {future, wakeup, self->scheduler->context};
        added = answered(PyObject_VectorcallMethod(state->str_add_done_callback, arguments, 2,
                                                   state->context_names));
    }
    Py_XDECREF(wakeup);
    if (!added) {
        Py_DECREF(future);
        return throw_soon(self);
    }
    self->waiting = future;
    if (state->add_awaited_by != NULL &&
        !answered(PyObject_CallFunctionObjArgs(state->add_awaited_by, future, self, NULL)))
        PyErr_WriteUnraisable(future);
    if (!self->must_cancel)
        return 0;
    int taken = cancel_awaited(self, self->cancel_message);
    self->must_cancel = taken != 1;
    return taken < 0 ? -1 : 0;
}

static int
yielded_future(Actor *self, PyObject *future) /* takes the reference */
{
    PyObject *blocking = PyObject_GetAttr(future, self->scheduler->state->str__asyncio_future_blocking);
    if (blocking == NULL)
        PyErr_Clear();
    int is_blocking = blocking != NULL && !Py_IsNone(blocking) ? PyObject_IsTrue(blocking) : 0;
    Py_XDECREF(blocking);
    int other = is_blocking == 1 ? is_of_another_loop(self, future) : 0;
    if (is_blocking < 0 || other < 0) {
        Py_DECREF(future);
        return -1;
    }
    if (!is_blocking || other || future == (PyObject *)self)
        return refuse(self, future);
    return wait_for(self, future);
}

/* Have it stepped by a handle of the loop's own, as a task is. */
static int
step_soon(Actor *self)
{
    PyObject *step = PyCFunction_New(&step_method, (PyObject *)self);
    if (step == NULL)
        return -1;
    int failed = loop_call_soon(self->scheduler, step, NULL);
    Py_DECREF(step);
    return failed;
}

/* For a spent budget it lets the others have their turn; otherwise (`asyncio.sleep(0)`) the loop. */
static int
yielded_bare(Actor *self)
{
    Scheduler *scheduler = self->scheduler;
    State *state = scheduler->state;
    if (state->yielding) {
        scheduler->steps += YIELD_STEPS;
        scheduler_push(scheduler, Py_NewRef(self));
        return 0;
    }
    scheduler_keep_order(scheduler);
    return step_soon(self);
}

static inline int
yielded(Actor *self, PyObject *result) /* takes the reference */
{
    Scheduler *scheduler = self->scheduler;
    if (UNLIKELY(Py_IsNone(result))) {
        Py_DECREF(result);
        return yielded_bare(self);
    }
    if (UNLIKELY(!is_sleeper(scheduler->state, result)))
        return yielded_future(self, result);
    Sleeper *sleeper = (Sleeper *)result;
    if (UNLIKELY(sleeper->phase != PARKED || sleeper->party != NOBODY || !sleeper->blocking))
        return refuse(self, result);
    attach_actor(sleeper, self);
    Py_DECREF(result);
    if (UNLIKELY(self->must_cancel) &&
        cancel_sleeper(sleeper, self->cancel_message != NULL ? self->cancel_message : Py_None))
        self->must_cancel = false;
    return 0;
}

/* --- the step ---------------------------------------------------------------------------------- */

/* The cancellation that is due, instead of `error` unless that is one: a reference. */
static PyObject *
cancellation_due(Actor *self, PyObject *error)
{
    PyTypeObject *type = (PyTypeObject *)self->scheduler->state->CancelledError;
    self->must_cancel = false;
    if (error != NULL && PyObject_TypeCheck(error, type))
        return error;
    Py_XDECREF(error);
    if (self->cancel_message == NULL || Py_IsNone(self->cancel_message))
        return PyObject_CallNoArgs((PyObject *)type);
    return PyObject_CallOneArg((PyObject *)type, self->cancel_message);
}

static PySendResult
throw_in(Actor *self, PyObject *error, PyObject **result) /* takes the reference */
{
    State *state = self->scheduler->state;
    *result = PyObject_CallMethodOneArg(self->coroutine, state->str_throw, error);
    Py_DECREF(error);
    if (*result != NULL)
        return PYGEN_NEXT;
    if (!PyErr_ExceptionMatches(PyExc_StopIteration))
        return PYGEN_ERROR;
    PyObject *stop = take_exception();
    *result = Py_NewRef(((PyStopIterationObject *)stop)->value);
    Py_DECREF(stop);
    return PYGEN_RETURN;
}

/* Resume the coroutine, with `error` (whose reference is taken) thrown in unless that is NULL.
 * -1 with an exception set for what must end the loop. Part of the scheduler's turn itself: a call
 * less in each hop. */
static ALWAYS_INLINE int
step_coroutine(Actor *self, PyObject *error)
{
    Scheduler *scheduler = self->scheduler;
    PyThreadState *thread = scheduler->thread;
    PyObject *result = NULL;
    PySendResult how = PYGEN_ERROR;
    if (UNLIKELY(self->must_cancel) && (error = cancellation_due(self, error)) == NULL)
        return raised(self);
    scheduler->state->yielding = false;
    if (LIKELY(set_current(scheduler, (PyObject *)self) == 0 &&
               enter_context(thread, self->context) == 0)) {
        how = UNLIKELY(error != NULL)            ? throw_in(self, error, &result)
              : LIKELY(self->send_value != NULL) ? self->send_value(self->coroutine, Py_None, &result)
                                                 : PyIter_Send(self->coroutine, Py_None, &result);
        exit_context(thread, self->context);
    }
    else
        Py_XDECREF(error);
    forget_handed_out(scheduler->state);
    if (LIKELY(how == PYGEN_NEXT))
        return yielded(self, result);
    return how == PYGEN_RETURN ? returned(self, result) : raised(self);
}

/* The same, for all who are not the turn. */
static NEVER_INLINE int
actor_step(Actor *self, PyObject *error)
{
    return step_coroutine(self, error);
}

/* Resumed for another reason than that its operation happened. */
static NEVER_INLINE int
resume_otherwise(Actor *self, PyObject *waiting, bool parked)
{
    PyObject *error = self->thrown, *after = self->after;
    self->thrown = self->after = NULL;
    if (parked && ((Sleeper *)waiting)->claim == CANCELLED) {
        Py_XDECREF(error);
        error = cancellation_of((Sleeper *)waiting);
        if (error == NULL)
            error = take_exception();
    }
    int failed = actor_step(self, error);
    if (after != NULL && parked && failed == 0 && !answered(PyObject_CallNoArgs(after)))
        failed = -1;
    Py_XDECREF(after);
    return failed;
}

/* The scheduler's turn has come to it. */
static ALWAYS_INLINE int
actor_resume(Actor *self)
{
    PyObject *waiting = self->waiting;
    bool parked = self->parked;
    int failed;
    if (UNLIKELY(self->ended))
        return 0;
    self->waiting = NULL;
    self->parked = false;
    if (UNLIKELY(!parked || ((Sleeper *)waiting)->claim == CANCELLED || self->after != NULL))
        failed = resume_otherwise(self, waiting, parked);
    else
        failed = step_coroutine(self, NULL);
    Py_XDECREF(waiting);
    return failed;
}

/* Called by the loop after a bare yield. */
static PyObject *
actor_step_soon(Actor *self, PyObject *unused)
{
    Scheduler *scheduler = self->scheduler;
    if (self->ended)
        Py_RETURN_NONE;
    PyObject *error = self->thrown;
    self->thrown = NULL;
    scheduler_enter(scheduler);
    int failed = actor_step(self, error);
    scheduler_leave(scheduler);
    if (failed < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef step_method = {
    "step", (PyCFunction)actor_step_soon, METH_NOARGS, "Resume the actor."};

/* The callback of a future that it awaits: step at once, as a task does. */
static PyObject *
actor_wakeup(Actor *self, PyObject *future)
{
    Scheduler *scheduler = self->scheduler;
    PyObject *error = NULL, *waiting = self->waiting;
    if (self->ended)
        Py_RETURN_NONE; /* cleared by the collector, it may even have no scheduler */
    if (self->parked || waiting == NULL)
        Py_RETURN_NONE; /* called back once more than it waited */
    State *state = scheduler->state;
    self->waiting = NULL;
    if (state->discard_awaited_by != NULL &&
        !answered(PyObject_CallFunctionObjArgs(state->discard_awaited_by, future, self, NULL)))
        PyErr_Clear();
    if (!answered(PyObject_CallMethodNoArgs(future, state->str_result)))
        error = take_exception();
    scheduler_enter(scheduler);
    int failed = actor_step(self, error);
    scheduler_leave(scheduler);
    Py_XDECREF(waiting);
    if (failed < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef wakeup_method = {
    "wakeup", (PyCFunction)actor_wakeup, METH_O, "Called when what the actor awaits is done."};

/* --- cancellation ------------------------------------------------------------------------------ */

/* Cancel it once more: true unless it has ended. */
static int
actor_cancel(Actor *self, PyObject *message)
{
    if (self->ended) /* whoever cancels it knows of its failure, if it has failed */
        return PyObject_SetAttrString((PyObject *)self, "_log_traceback", Py_False);
    self->cancelling++;
    if (self->waiting != NULL && self->parked) {
        if (cancel_sleeper((Sleeper *)self->waiting, message))
            return 1;
    }
    else if (self->waiting != NULL) {
        int taken = cancel_awaited(self, message);
        if (taken != 0)
            return taken;
    }
    self->must_cancel = true;
    Py_XSETREF(self->cancel_message, Py_NewRef(message));
    return 1;
}

/* --- starting ---------------------------------------------------------------------------------- */

/* WeakSet.add, without the Python call, where that is what holds all tasks. */
static int
note_task(State *state, Actor *self)
{
    PyObject *tasks = state->scheduled_tasks;
    PyObject *data = PyObject_GetAttr(tasks, state->str_data);
    PyObject *remove = PyObject_GetAttr(tasks, state->str__remove);
    PyObject *pending = PyObject_GetAttr(tasks, state->str__pending_removals);
    int failed = -1;
    if (data != NULL && PySet_Check(data) && remove != NULL && pending != NULL &&
        PyList_Check(pending) && PyList_GET_SIZE(pending) == 0) {
        PyObject *weak = PyWeakref_NewRef((PyObject *)self, remove);
        failed = weak != NULL ? PySet_Add(data, weak) : -1;
        Py_XDECREF(weak);
    }
    else {
        PyErr_Clear();
        failed = answered(PyObject_CallMethodOneArg(tasks, state->str_add, (PyObject *)self)) ? 0 : -1;
    }
    Py_XDECREF(data);
    Py_XDECREF(remove);
    Py_XDECREF(pending);
    return failed;
}

/* Bind a new actor, whose part of Future has begun, to its coroutine; it is not started yet. */
static int
actor_bind(Actor *self, Scheduler *scheduler, PyObject *coroutine, PyObject *name, PyObject *context)
{
    PyObject *own = Py_IsNone(context) ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (own == NULL)
        return -1;
    Py_XSETREF(self->scheduler, (Scheduler *)Py_NewRef(scheduler));
    Py_XSETREF(self->context, own);
    Py_XSETREF(self->coroutine, Py_NewRef(coroutine));
    Py_XSETREF(self->name, Py_NewRef(name));
    PyAsyncMethods *methods = Py_TYPE(coroutine)->tp_as_async;
    self->send_value = methods != NULL ? methods->am_send : NULL;
    self->log_destroy_pending = true;
    return note_task(scheduler->state, self);
}

/* As `__init__` does it, which may be called again. */
static int
actor_begin(Actor *self, Scheduler *scheduler, PyObject *coroutine, PyObject *name, PyObject *context)
{
    State *state = scheduler->state;
    if (state->Future->tp_init((PyObject *)self, state->empty_tuple, scheduler->future_arguments) < 0)
        return -1;
    Py_CLEAR(self->waiting);
    Py_CLEAR(self->thrown);
    Py_CLEAR(self->cancel_message);
    Py_CLEAR(self->cancelled_error);
    Py_CLEAR(self->after);
    Py_CLEAR(self->on_end);
    self->cancelling = 0;
    self->parked = self->must_cancel = self->ended = false;
    return actor_bind(self, scheduler, coroutine, name, context);
}

/* A new actor: a reference. `plainly` is how all but those in debug mode can be begun, which also
 * note from where they come. */
static Actor *
actor_new(Scheduler *scheduler, PyObject *coroutine, PyObject *name, bool plainly)
{
    PyTypeObject *type = scheduler->state->Actor;
    Actor *self = (Actor *)type->tp_alloc(type, 0);
    int failed = -1;
    if (self != NULL && plainly) {
        ((FutureInside *)self)->loop = Py_NewRef(scheduler->loop);
        failed = actor_bind(self, scheduler, coroutine, name, Py_None);
    }
    else if (self != NULL)
        failed = actor_begin(self, scheduler, coroutine, name, Py_None);
    if (failed < 0)
        Py_CLEAR(self);
    return self;
}

/* spawn(coroutines, name, first, ended): an actor for each, as keys of a dict. */
static PyObject *
spawn(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    State *state = PyModule_GetState(module);
    if (count != 4 || !PyList_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "spawn(coroutines, name, first, ended)");
        return NULL;
    }
    Py_ssize_t first = PyLong_AsSsize_t(args[2]);
    Scheduler *scheduler = PyErr_Occurred() ? NULL : scheduler_here(state);
    PyObject *tasks = scheduler != NULL ? PyDict_New() : NULL;
    int debug = tasks != NULL ? truth(PyObject_CallMethod(scheduler->loop, "get_debug", NULL)) : -1;
    bool plainly = state->future_is_known && debug == 0;
    for (Py_ssize_t n = 0; debug >= 0 && n < PyList_GET_SIZE(args[0]); n++) {
        Actor *actor = actor_new(scheduler, PyList_GET_ITEM(args[0], n), args[1], plainly);
        if (actor == NULL || PyDict_SetItem(tasks, (PyObject *)actor, Py_None) < 0)
            debug = -1;
        else {
            actor->on_end = Py_NewRef(args[3]);
            actor->number = first != 0 ? first + n : 0;
            scheduler_push(scheduler, Py_NewRef(actor)); /* many of them, one handle of the loop's */
        }
        Py_XDECREF(actor);
    }
    Py_XDECREF(scheduler);
    if (debug < 0)
        Py_CLEAR(tasks);
    return tasks;
}
