/* Scheduler: resumes the waiters of one event loop, many to a turn.
 *
 * One `call_soon` covers a burst of wake-ups. A turn ends after TURN_STEPS or TURN_SECONDS, whichever
 * is first, so that timers and sockets are served; the remaining waiters are resumed next turn. Any
 * thread may push; if no turn is scheduled, the push wakes the loop.
 *
 * The clock is read once per stride of steps, which adapts to their length: at every step it would
 * cost 10 % of a hop.
 */
#include "native.h"

#define LONGEST_STRIDE 64

/* A step of this scheduler begins in this thread. */
static inline void scheduler_enter(Scheduler *self) {
    self->state->active = self;
    self->thread = PyThreadState_Get();
    self->now = -1.0;
}

/* --- resuming ---------------------------------------------------------------------------------- */

/* Have the loop call `callback` in its next turn, with `argument` unless that is NULL. `method` is the
 * name of `call_soon` or of its thread-safe form. */
static int have_called(Scheduler *self, PyObject *method, PyObject *callback, PyObject *argument) {
    PyObject *loop = need_loop(self);
    PyObject *given[] = {loop, callback, argument != NULL ? argument : self->context, self->context};
    if (loop == NULL)
        return -1;
    size_t count = argument != NULL ? 3 : 2;
    PyObject *names = self->state->context_names;
    int failed = answered(PyObject_VectorcallMethod(method, given, count, names)) ? 0 : -1;
    Py_DECREF(loop);
    return failed;
}

/* The same by `call_soon`; takes the reference to `callback`. */
static int call_soon(Scheduler *self, PyObject *callback, PyObject *argument) {
    int failed = have_called(self, self->state->str_call_soon, callback, argument);
    Py_DECREF(callback);
    return failed;
}

/* The loop has raised instead. If it was closed since the claim, its tasks give back when they are torn
 * down. If a signal handler has raised, `ready` must be resumed all the same; that the loop may have
 * the turn already does no harm. */
static COLD void schedule_again(Scheduler *self, PyObject *method, PyObject *turn) {
    PyObject *error = PyErr_GetRaisedException();
    bool closed = PyErr_GivenExceptionMatches(error, PyExc_RuntimeError) && !is_reachable(self);
    self->scheduled = !closed && turn != NULL && have_called(self, method, turn, NULL) == 0;
    if (closed) {
        Py_DECREF(error);
        return;
    }
    if (!self->scheduled)
        raise_soon(self->state, (PyObject *)self);
    PyErr_SetRaisedException(error);
    raise_soon(self->state, (PyObject *)self);
}

static PyObject *turn_make(Scheduler *scheduler) {
    Turn *self = (Turn *)scheduler->state->Turn->tp_alloc(scheduler->state->Turn, 0);
    if (self != NULL)
        self->scheduler = (Scheduler *)Py_NewRef(scheduler);
    return (PyObject *)self;
}

/* Schedule a turn: from another thread, by waking the loop. */
static void schedule(Scheduler *self) {
    State *state = self->state;
    bool here = self->loop != NULL && running_loop(state) == self->loop;
    PyObject *method = here ? state->str_call_soon : state->str_call_soon_threadsafe;
    PyObject *turn = turn_make(self);
    self->scheduled = turn != NULL;
    if (UNLIKELY(turn == NULL || have_called(self, method, turn, NULL) < 0))
        schedule_again(self, method, turn);
    Py_XDECREF(turn); /* the loop has it now; if not, the turn drops `ready` */
}

/* Have `item`, an actor or a waiter (whose reference is taken), resumed by its loop. */
static ALWAYS_INLINE void scheduler_push(Scheduler *self, PyObject *item) {
    if (UNLIKELY(!ring_has_room(&self->ready))) {
        PyErr_WriteUnraisable(item);
        Py_DECREF(item);
        return;
    }
    ring_push(&self->ready, item);
    if (UNLIKELY(!self->scheduled))
        schedule(self);
}

/* Before a callback is given to the loop: what is in `ready` now is resumed before that callback, even
 * if this turn, or the next one, would end first. */
static void scheduler_keep_order(Scheduler *self) {
    if (self->ready.count == 0)
        return;
    self->promised = self->resumed + self->ready.count;
    if (self->turning && !self->scheduled_again) {
        schedule(self);
        self->scheduled_again = self->scheduled; /* not if the loop was closed */
    }
}

/* Make `actor` the loop's current task; NULL for none. */
static inline int set_current(Scheduler *self, PyObject *actor) {
    PyObject *tasks = self->state->current_tasks, *swap = self->state->swap_current_task;
    if (UNLIKELY(self->current == actor))
        return 0;
    self->current = actor;
    if (tasks == NULL) {
        PyObject *given[] = {self->loop, actor != NULL ? actor : Py_None};
        return answered(PyObject_Vectorcall(swap, given, 2, NULL)) ? 0 : -1;
    }
    return actor != NULL ? set_in_place(tasks, self->loop, actor, &self->place)
                         : PyDict_DelItem(tasks, self->loop);
}

/* The step is over: there is no current task. */
static void scheduler_leave(Scheduler *self) {
    if (self->current != NULL) {
        PyObject *error = PyErr_GetRaisedException();
        if (set_current(self, NULL) < 0)
            PyErr_Clear();
        PyErr_SetRaisedException(error);
    }
    self->thread = NULL;
    self->now = -1.0;
}

/* Call back a task that is no actor of this core, as a handle of its loop would. */
static int resume_task(Scheduler *self, Waiter *waiter) {
    PyObject *callback = waiter->driver, *context = waiter->context;
    bool done = false;
    if (callback == NULL || context == NULL)
        return 0;
    waiter->driver = waiter->context = NULL;
    waiter->driver_kind = NO_DRIVER;
    waiter->not_reusable &= ~FOR_A_TASK;
    Py_CLEAR(waiter->scheduler);
    if (set_current(self, NULL) == 0 && PyContext_Enter(context) == 0) {
        done = answered(PyObject_CallOneArg(callback, (PyObject *)waiter));
        PyContext_Exit(context);
        forget_handed_out(self->state);
    }
    Py_DECREF(callback);
    Py_DECREF(context);
    return done ? 0 : -1;
}

/* After a stride: false once the turn's time is over. */
static bool has_time(Scheduler *self, double *last, double ends) {
    double now = seconds_of(PyObject_CallNoArgs(self->state->monotonic));
    double took = now - *last;
    *last = now;
    self->now = -1.0;
    if (took > TURN_SECONDS / 2)
        self->stride = 1;
    else if (took > TURN_SECONDS / 5 && self->stride > 1)
        self->stride /= 2;
    else if (took < TURN_SECONDS / 12 && self->stride < LONGEST_STRIDE)
        self->stride *= 2;
    return now < ends;
}

/* Have what is left in `ready` resumed; if nothing is, have `on_quiet` called in the loop's next turn. */
static int end_turn(Scheduler *self, int failed) {
    self->turning = false;
    self->scheduled = self->scheduled_again;
    if (self->ready.count > 0 && !self->scheduled_again) {
        PyObject *error = PyErr_GetRaisedException();
        schedule(self);
        PyErr_SetRaisedException(error);
    }
    PyObject *told = self->on_quiet;
    if (LIKELY(told == NULL) || self->scheduled || failed < 0)
        return failed;
    self->on_quiet = NULL;
    return call_soon(self, told, NULL);
}

/* Whether its loop is in debug mode: -1 with an error set. */
static int is_debugged(Scheduler *self) {
    PyObject *loop = take_loop(self);
    int debugged = loop != NULL ? truth(PyObject_CallMethodNoArgs(loop, self->state->str_get_debug)) : 0;
    Py_XDECREF(loop);
    return debugged;
}

/* One turn: resume `ready`, and what that wakes, in order. In debug mode it ends with the first step
 * that takes too long, and `blocker` is the task of that step. */
static int scheduler_run(Scheduler *self, Turn *turn) {
    int debug = is_debugged(self);
    int failed = debug < 0 ? -1 : 0;
    bool over = false;
    double last = self->timeless ? 0.0 : seconds_of(PyObject_CallNoArgs(self->state->monotonic));
    double ends = last + TURN_SECONDS;
    Py_ssize_t promised = self->promised; /* as it is now: what this turn adds is for the next turn */
    self->scheduled = self->turning = true;
    self->scheduled_again = false;
    self->steps = 0;
    self->look = debug ? 1 : self->stride;
    scheduler_enter(self);
    while (self->ready.count > 0 && failed == 0 &&
           (self->steps < TURN_STEPS || self->resumed < promised)) {
        PyObject *item = ring_pop(&self->ready);
        bool actor = PyObject_TypeCheck(item, self->state->Actor);
        if (UNLIKELY(debug) && !over)
            Py_XSETREF(turn->blocker, Py_XNewRef(actor ? item : ((Waiter *)item)->driver));
        self->resumed++;
        self->state->active = self; /* another thread may have changed it */
        failed = LIKELY(actor) ? actor_resume((Actor *)item) : resume_task(self, (Waiter *)item);
        Py_DECREF(item);
        self->steps++;
        if (UNLIKELY(--self->look <= 0) && !self->timeless && failed == 0) {
            over = !has_time(self, &last, ends);
            if (over && self->resumed >= promised)
                break;
            self->look = debug ? 1 : self->stride;
        }
    }
    scheduler_leave(self);
    return end_turn(self, failed);
}

/* --- turns ------------------------------------------------------------------------------------- */

static PyObject *turn_call(Turn *self, PyObject *args, PyObject *names) {
    if (self->begun || self->scheduler == NULL)
        Py_RETURN_NONE;
    self->begun = true;
    return scheduler_run(self->scheduler, self) < 0 ? NULL : Py_NewRef(Py_None);
}

static int turn_traverse(Turn *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->scheduler);
    Py_VISIT(self->blocker);
    if (self->begun || self->scheduler == NULL)
        return 0;
    Py_VISIT(self->scheduler->on_quiet);
    return ring_traverse(&self->scheduler->ready, visit, arg);
}

/* The loop was closed and has dropped the turn: nothing resumes `ready`. */
static int turn_clear(Turn *self) {
    Scheduler *scheduler = self->scheduler;
    self->scheduler = NULL;
    Py_CLEAR(self->blocker);
    if (scheduler != NULL && !self->begun && !scheduler->turning) {
        Ring dropped = scheduler->ready;
        scheduler->ready = (Ring){NULL};
        scheduler->scheduled = scheduler->scheduled_again = false;
        Py_CLEAR(scheduler->on_quiet);
        ring_clear(&dropped);
    }
    Py_XDECREF(scheduler);
    return 0;
}

static PyMemberDef turn_members[] = {
    {"_blocker", T_OBJECT, offsetof(Turn, blocker), READONLY, NULL},
    {NULL},
};

static PyType_Slot turn_slots[] = {
    {Py_tp_doc, "One turn of a scheduler: what its event loop calls."},
    {Py_tp_call, turn_call},
    {Py_tp_dealloc, free_object},
    {Py_tp_traverse, turn_traverse},
    {Py_tp_clear, turn_clear},
    {Py_tp_members, turn_members},
    {0, NULL},
};

static PyType_Spec turn_spec = SPEC(Turn, Turn, MADE_HERE | Py_TPFLAGS_HAVE_GC, turn_slots);

/* --- the type ---------------------------------------------------------------------------------- */

static int scheduler_traverse(Scheduler *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    VISIT_ALL(self->alive, self->context);
    return 0; /* its turn visits `ready`, so that the collector finds a loop that was dropped unclosed */
}

static int scheduler_clear(Scheduler *self) {
    CLEAR_ALL(self->alive, self->on_quiet);
    ring_clear(&self->ready);
    return 0;
}

static void scheduler_dealloc(Scheduler *self) {
    if (self->state->active == self)
        self->state->active = NULL;
    if (self->state->latest == self)
        self->state->latest = NULL;
    free_object((PyObject *)self);
}

static PyMemberDef scheduler_members[] = {
    {"_scheduled", T_BOOL, offsetof(Scheduler, scheduled), READONLY, NULL},
    {"_on_quiet", T_OBJECT, offsetof(Scheduler, on_quiet), 0, NULL},
    {NULL},
};

static PyType_Slot scheduler_slots[] = {
    {Py_tp_doc, "Resumes the waiters of one event loop."},
    {Py_tp_dealloc, scheduler_dealloc},
    {Py_tp_traverse, scheduler_traverse},
    {Py_tp_clear, scheduler_clear},
    {Py_tp_members, scheduler_members},
    {0, NULL},
};

static PyType_Spec scheduler_spec = SPEC(Scheduler, Scheduler, MADE_HERE | Py_TPFLAGS_HAVE_GC, scheduler_slots);
