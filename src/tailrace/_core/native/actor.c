/* Actor: a task that the scheduler steps.
 *
 * It is a subclass of asyncio's own Future, which keeps its result and callbacks. The step is here,
 * the rest of the Task protocol in task.c, both after CPython's `_asynciomodule.c`; cancellation is as
 * in 3.13 on every version.
 *
 * The scheduler's turn resumes it after a channel operation was claimed; the loop, after a bare yield;
 * the callback of a future, if it awaits any other future.
 */
#include "native.h"

/* --- the end ----------------------------------------------------------------------------------- */

/* Settle the future that it is, by a method of Future itself, as those of Task refuse; then have `on_end`
 * called by the loop, in no task, as asyncio calls the callbacks of a task. So all failures of this turn
 * are known before the first of them cancels the other actors. */
static int end(Actor *self, PyObject *method, PyObject *argument) {
    self->ended = true;
    if (!answered(PyObject_CallFunctionObjArgs(method, self, argument, NULL)))
        return -1;
    PyObject *on_end = self->on_end;
    if (on_end == NULL)
        return 0;
    self->on_end = NULL;
    return call_soon(self->scheduler, on_end, (PyObject *)self);
}

static int end_with_value(Actor *self, PyObject *value) { /* takes the reference */
    State *state = self->scheduler->state;
    bool late = self->must_cancel; /* it was cancelled right before it ended */
    self->must_cancel = false;
    int failed = late ? end(self, state->future_cancel, self->cancel_message)
                      : end(self, state->future_set_result, value);
    Py_DECREF(value);
    return failed;
}

/* The coroutine raised: -1 for what must also end the loop. */
static int end_with_error(Actor *self) {
    State *state = self->scheduler->state;
    PyObject *error = PyErr_GetRaisedException();
    if (PyObject_TypeCheck(error, (PyTypeObject *)state->CancelledError)) {
        PyObject *args = ((PyBaseExceptionObject *)error)->args;
        Py_XSETREF(self->cancelled_error, error);
        return end(self, state->future_cancel, PyTuple_GET_SIZE(args) > 0 ? PyTuple_GET_ITEM(args, 0) : NULL);
    }
    int failed = end(self, state->future_set_exception, error);
    if (failed == 0 && (PyErr_GivenExceptionMatches(error, PyExc_KeyboardInterrupt) ||
                        PyErr_GivenExceptionMatches(error, PyExc_SystemExit))) {
        PyErr_SetRaisedException(error);
        return -1;
    }
    Py_DECREF(error);
    return failed;
}

/* --- after a yield ----------------------------------------------------------------------------- */

/* Raise the exception that is set in the coroutine, in a step of its own. */
static int throw_soon(Actor *self) {
    Py_XSETREF(self->thrown, PyErr_GetRaisedException());
    scheduler_push(self->scheduler, Py_NewRef(self));
    return 0;
}

/* Pass a cancellation on to the future that it awaits. Returns whether that took it. */
static int cancel_awaited(Actor *self, PyObject *message) {
    State *state = self->scheduler->state;
    PyObject *arguments[] = {self->waiting, message != NULL ? message : Py_None};
    return truth(PyObject_VectorcallMethod(state->str_cancel, arguments, 1, state->msg_names));
}

/* Await a future; takes the reference. */
static int wait_for(Actor *self, PyObject *future) {
    Scheduler *scheduler = self->scheduler;
    PyObject *arguments[] = {(PyObject *)self, future, scheduler->loop, scheduler->context};
    if (!answered(PyObject_Vectorcall(scheduler->state->wait_for, arguments, 4, NULL))) {
        Py_DECREF(future);
        return throw_soon(self);
    }
    self->waiting = future;
    if (!self->must_cancel)
        return 0;
    int taken = cancel_awaited(self, self->cancel_message);
    self->must_cancel = taken != 1;
    return taken < 0 ? -1 : 0;
}

static PyMethodDef step_method;

/* Have the loop step it by a handle of its own, as a task. */
static int step_soon(Actor *self) {
    PyObject *step = PyCFunction_New(&step_method, (PyObject *)self);
    return step != NULL ? call_soon(self->scheduler, step, NULL) : -1;
}

/* It yielded an operation whose budget is spent, or a future that is no waiter. */
static NEVER_INLINE int after_other_yield(Actor *self, PyObject *result) { /* takes the reference */
    Scheduler *scheduler = self->scheduler;
    if (!is_waiter(scheduler->state, result) || ((Waiter *)result)->phase != YIELDED)
        return wait_for(self, result);
    ((Waiter *)result)->blocking = false;
    Py_DECREF(result);
    scheduler_push_yielded(scheduler, Py_NewRef(self));
    return 0;
}

static inline int after_yield(Actor *self, PyObject *result) { /* takes the reference */
    if (UNLIKELY(Py_IsNone(result))) { /* as `asyncio.sleep(0)` does: `ready` is resumed first, then the loop */
        Py_DECREF(result);
        scheduler_keep_order(self->scheduler);
        return step_soon(self);
    }
    Waiter *waiter = (Waiter *)result;
    if (UNLIKELY(!is_waiter(self->scheduler->state, result) || waiter->phase != PARKED ||
                 waiter->driver_kind != NO_DRIVER))
        return after_other_yield(self, result);
    attach_actor(waiter, self);
    Py_DECREF(result);
    if (UNLIKELY(self->must_cancel) &&
        cancel_waiter(waiter, self->cancel_message != NULL ? self->cancel_message : Py_None))
        self->must_cancel = false;
    return 0;
}

/* --- the step ---------------------------------------------------------------------------------- */

/* The cancellation that is due: `error` if that is one, else a new one. A reference. */
static PyObject *cancellation_due(Actor *self, PyObject *error) {
    PyTypeObject *type = (PyTypeObject *)self->scheduler->state->CancelledError;
    self->must_cancel = false;
    if (error != NULL && PyObject_TypeCheck(error, type))
        return error;
    Py_XDECREF(error);
    return new_cancellation(self->scheduler->state, self->cancel_message);
}

static PySendResult throw_in(Actor *self, PyObject *error, PyObject **result) { /* takes it */
    State *state = self->scheduler->state;
    *result = PyObject_CallMethodOneArg(self->coroutine, state->str_throw, error);
    Py_DECREF(error);
    if (*result != NULL)
        return PYGEN_NEXT;
    if (!PyErr_ExceptionMatches(PyExc_StopIteration))
        return PYGEN_ERROR;
    PyObject *stop = PyErr_GetRaisedException();
    *result = Py_NewRef(((PyStopIterationObject *)stop)->value);
    Py_DECREF(stop);
    return PYGEN_RETURN;
}

/* Resume the coroutine; throw `error` (whose reference is taken) unless that is NULL. -1 with an
 * exception set that must end the loop. Inlined into the scheduler's turn: that saves a call per hop. */
static ALWAYS_INLINE int step_coroutine(Actor *self, PyObject *error) {
    Scheduler *scheduler = self->scheduler;
    PyObject *result = NULL;
    PySendResult how = PYGEN_ERROR;
    if (UNLIKELY(self->must_cancel) && (error = cancellation_due(self, error)) == NULL)
        return end_with_error(self);
    if (LIKELY(set_current(scheduler, (PyObject *)self) == 0 && PyContext_Enter(self->context) == 0)) {
        how = UNLIKELY(error != NULL)            ? throw_in(self, error, &result)
              : LIKELY(self->send_value != NULL) ? self->send_value(self->coroutine, Py_None, &result)
                                                 : PyIter_Send(self->coroutine, Py_None, &result);
        PyContext_Exit(self->context);
    }
    else
        Py_XDECREF(error);
    forget_handed_out(scheduler->state);
    if (LIKELY(how == PYGEN_NEXT))
        return after_yield(self, result);
    return how == PYGEN_RETURN ? end_with_value(self, result) : end_with_error(self);
}

/* The same, for all other callers. */
static NEVER_INLINE int actor_step(Actor *self, PyObject *error) {
    return step_coroutine(self, error);
}

/* Resume it in all cases but that its operation happened. */
static NEVER_INLINE int resume_otherwise(Actor *self, PyObject *waiting, bool parked) {
    PyObject *error = self->thrown, *after = self->after;
    self->thrown = self->after = NULL;
    int steps = self->scheduler->steps;
    bool begins = !self->begun;
    self->begun = true;
    if (parked && ((Waiter *)waiting)->claim == CANCELLED) {
        Py_XDECREF(error);
        error = cancellation_of((Waiter *)waiting);
        if (error == NULL)
            error = PyErr_GetRaisedException();
    }
    int failed = actor_step(self, error);
    if (begins) /* its first step does not count: the loop begins plain tasks */
        self->scheduler->steps = steps - 1;
    if (after != NULL && parked && failed == 0 && !answered(PyObject_CallNoArgs(after)))
        failed = -1;
    Py_XDECREF(after);
    return failed;
}

/* Resume it, as an item of `ready`. */
static ALWAYS_INLINE int actor_resume(Actor *self) {
    PyObject *waiting = self->waiting;
    bool parked = self->parked;
    int failed;
    if (UNLIKELY(self->ended))
        return 0;
    self->waiting = NULL;
    self->parked = false;
    if (UNLIKELY(!parked || ((Waiter *)waiting)->claim == CANCELLED || self->after != NULL))
        failed = resume_otherwise(self, waiting, parked);
    else
        failed = step_coroutine(self, NULL);
    Py_XDECREF(waiting);
    return failed;
}

/* Step it, called by the loop. */
static PyObject *step_by_loop(Actor *self, PyObject *error) {
    Scheduler *scheduler = self->scheduler;
    scheduler_enter(scheduler);
    int failed = actor_step(self, error);
    scheduler_leave(scheduler);
    return failed < 0 ? NULL : Py_NewRef(Py_None);
}

/* After a bare yield. */
static PyObject *actor_step_soon(Actor *self, PyObject *unused) {
    if (self->ended)
        Py_RETURN_NONE;
    PyObject *error = self->thrown;
    self->thrown = NULL;
    self->begun = true;
    return step_by_loop(self, error);
}

static PyMethodDef step_method = {"step", PLAIN(actor_step_soon), "Resume the actor."};

/* _wakeup(future): the future is done: step at once, as a task does. */
static PyObject *actor_wakeup(Actor *self, PyObject *future) {
    PyObject *error = NULL, *waiting = self->waiting;
    if (self->ended || self->parked || waiting == NULL)
        Py_RETURN_NONE; /* cleared by the collector, or called back once too often */
    State *state = self->scheduler->state;
    self->waiting = NULL;
    if (state->discard_awaited_by != NULL &&
        !answered(PyObject_CallFunctionObjArgs(state->discard_awaited_by, future, self, NULL)))
        PyErr_Clear();
    if (!answered(PyObject_CallMethodNoArgs(future, state->str_result)))
        error = PyErr_GetRaisedException();
    PyObject *stepped = step_by_loop(self, error);
    Py_DECREF(waiting);
    return stepped;
}

/* --- cancellation ------------------------------------------------------------------------------ */

/* _cancel(message): cancel it once more; false if it has ended. */
static PyObject *actor_cancel(Actor *self, PyObject *message) {
    int taken = 0;
    if (self->ended)
        Py_RETURN_FALSE;
    self->cancelling++;
    if (self->waiting != NULL)
        taken = self->parked ? cancel_waiter((Waiter *)self->waiting, message)
                             : cancel_awaited(self, message);
    if (taken < 0)
        return NULL;
    if (taken == 0) {
        self->must_cancel = true;
        Py_XSETREF(self->cancel_message, Py_NewRef(message));
    }
    Py_RETURN_TRUE;
}

/* --- starting ---------------------------------------------------------------------------------- */

/* Give it its coroutine. It may have had another before. */
static int actor_begin(Actor *self, Scheduler *scheduler, PyObject *coroutine, PyObject *name,
                       PyObject *context) {
    State *state = scheduler->state;
    PyObject *own = Py_IsNone(context) ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (own == NULL)
        return -1;
    self->ended = true; /* for calls by the coroutine that it drops */
    CLEAR_ALL(self->scheduler, self->on_end);
    self->scheduler = (Scheduler *)Py_NewRef(scheduler);
    self->context = own;
    self->coroutine = Py_NewRef(coroutine);
    self->name = Py_NewRef(name);
    self->cancelling = 0;
    self->parked = self->begun = self->must_cancel = self->ended = false;
    self->log_destroy_pending = true;
    PyAsyncMethods *methods = Py_TYPE(coroutine)->tp_as_async;
    self->send_value = methods != NULL ? methods->am_send : NULL;
    if (scheduler->loop == NULL || /* the loop was freed meanwhile */
        PyDict_SetItem(state->future_arguments, state->str_loop, scheduler->loop) < 0)
        return -1;
    int failed = state->Future->tp_init((PyObject *)self, state->empty_tuple, state->future_arguments);
    if (PyDict_SetItem(state->future_arguments, state->str_loop, Py_None) < 0)
        return -1;
    return failed;
}

/* spawn(coroutines, name, first, ended): an actor for each coroutine, as keys of a dict. */
static PyObject *spawn(PyObject *module, PyObject *args) {
    State *state = PyModule_GetState(module);
    PyObject *coroutines, *name, *ended, *each;
    Py_ssize_t first, at = 0;
    if (!PyArg_ParseTuple(args, "O!OnO:spawn", &PyList_Type, &coroutines, &name, &first, &ended))
        return NULL;
    Scheduler *scheduler = scheduler_here(state);
    PyObject *actors = scheduler != NULL ? PyDict_New() : NULL;
    for (Py_ssize_t n = 0; actors != NULL && n < PyList_GET_SIZE(coroutines); n++) {
        Actor *actor = (Actor *)state->Actor->tp_alloc(state->Actor, 0);
        if (actor == NULL ||
            actor_begin(actor, scheduler, PyList_GET_ITEM(coroutines, n), name, Py_None) < 0 ||
            PyDict_SetItem(actors, (PyObject *)actor, Py_None) < 0)
            Py_CLEAR(actors);
        else {
            actor->on_end = Py_NewRef(ended);
            actor->number = first != 0 ? first + n : 0;
        }
        Py_XDECREF(actor);
    }
    if (actors != NULL && !answered(PyObject_CallOneArg(state->register_tasks, actors)))
        Py_CLEAR(actors);
    while (actors != NULL && PyDict_Next(actors, &at, &each, NULL))
        scheduler_push(scheduler, Py_NewRef(each)); /* many actors, one handle of the loop */
    Py_XDECREF(scheduler);
    return actors;
}
