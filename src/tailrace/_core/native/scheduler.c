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
    if (PyWeakref_GetRef(self->alive, &loop) < 0)
        PyErr_Clear();
#else
    loop = PyWeakref_GetObject(self->alive);
    loop = Py_IsNone(loop) ? NULL : Py_NewRef(loop);
#endif
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

static Scheduler *scheduler_make(State *state, PyObject *loop) {
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
    return self;
}

/* The scheduler of `loop`, made at its first use: a reference. They are found by the address of their
 * loop, while that lives. */
static Scheduler *scheduler_of(State *state, PyObject *loop) {
    if (state->latest != NULL && state->latest->loop == loop)
        return (Scheduler *)Py_NewRef(state->latest);
    PyObject *key = PyLong_FromVoidPtr(loop);
    PyObject *known = key != NULL ? PyDict_GetItemWithError(state->schedulers, key) : NULL;
    Py_XINCREF(known);
    if (known == NULL && !PyErr_Occurred()) {
        known = (PyObject *)scheduler_make(state, loop);
        if (known != NULL && PyDict_SetItem(state->schedulers, key, known) < 0)
            Py_CLEAR(known);
    }
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
    PyObject *loop = take_loop(self);
    PyObject *given[] = {loop, callback, argument != NULL ? argument : self->context, self->context};
    if (loop == NULL) { /* freed, hence closed */
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    size_t count = argument != NULL ? 3 : 2;
    PyObject *names = self->state->context_names;
    int failed = answered(PyObject_VectorcallMethod(method, given, count, names)) ? 0 : -1;
    Py_DECREF(loop);
    return failed;
}

/* The loop has raised instead. If it was closed since the claim, its tasks give back when they are torn
 * down. If a signal handler has raised, `ready` must be resumed all the same; that the loop may have
 * the turn already does no harm. */
static COLD void schedule_again(Scheduler *self, PyObject *method, PyObject *turn) {
    PyObject *error = take_exception();
    bool closed = PyErr_GivenExceptionMatches(error, PyExc_RuntimeError) && !is_reachable(self);
    self->scheduled = !closed && turn != NULL && have_called(self, method, turn, NULL) == 0;
    if (closed) {
        Py_DECREF(error);
        return;
    }
    if (!self->scheduled)
        raise_soon(self->state, (PyObject *)self);
    raise_exception(error);
    raise_soon(self->state, (PyObject *)self);
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

/* The same for a task whose budget is spent. Its step may have taken long, so the clock is read after
 * it. */
static void scheduler_push_yielded(Scheduler *self, PyObject *item) {
    self->steps += YIELD_STEPS;
    self->look = 1;
    scheduler_push(self, item);
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
        PyObject *error = take_exception();
        if (set_current(self, NULL) < 0)
            PyErr_Clear();
        raise_exception(error);
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

/* The task of an item in `ready`: a reference, or NULL. */
static COLD PyObject *task_of(Scheduler *self, PyObject *item) {
    if (is_actor(self->state, item))
        return Py_NewRef(item);
    PyObject *callback = ((Waiter *)item)->driver;
    PyObject *task = callback != NULL ? PyObject_GetAttrString(callback, "__self__") : NULL;
    if (task == NULL)
        PyErr_Clear();
    return task;
}

static int resume_item(Scheduler *self, PyObject *item) {
    if (LIKELY(is_actor(self->state, item)))
        return actor_resume((Actor *)item);
    return resume_task(self, (Waiter *)item);
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

/* `ready` is empty: have `on_quiet` called, in the loop's next turn. */
static COLD int tell_quiet(Scheduler *self) {
    PyObject *told = self->on_quiet;
    self->on_quiet = NULL;
    int failed = have_called(self, self->state->str_call_soon, told, NULL);
    Py_DECREF(told);
    return failed;
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
        if (UNLIKELY(debug) && !over)
            Py_XSETREF(turn->blocker, task_of(self, item));
        self->resumed++;
        self->state->active = self; /* another thread may have changed it */
        failed = resume_item(self, item);
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
    self->turning = false;
    self->scheduled = self->scheduled_again;
    if (self->ready.count > 0 && !self->scheduled_again) {
        PyObject *error = take_exception();
        schedule(self);
        raise_exception(error);
    }
    if (UNLIKELY(self->on_quiet != NULL) && !self->scheduled && failed == 0)
        failed = tell_quiet(self);
    return failed;
}

/* --- turns ------------------------------------------------------------------------------------- */

static PyObject *turn_make(Scheduler *scheduler) {
    Turn *self = (Turn *)scheduler->state->Turn->tp_alloc(scheduler->state->Turn, 0);
    if (self != NULL)
        self->scheduler = (Scheduler *)Py_NewRef(scheduler);
    return (PyObject *)self;
}

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

static void turn_dealloc(Turn *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    turn_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef turn_members[] = {
    {"__self__", T_OBJECT, offsetof(Turn, blocker), READONLY,
     "In debug mode the task that asyncio is to name when the turn took too long."},
    {NULL},
};

static PyType_Slot turn_slots[] = {
    {Py_tp_doc, "One turn of a scheduler: what its event loop calls."},
    {Py_tp_call, turn_call},
    {Py_tp_dealloc, turn_dealloc},
    {Py_tp_traverse, turn_traverse},
    {Py_tp_clear, turn_clear},
    {Py_tp_members, turn_members},
    {0, NULL},
};

static PyType_Spec turn_spec = {
    .name = "tailrace._core.native.Turn",
    .basicsize = sizeof(Turn),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = turn_slots,
};

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
    PyTypeObject *type = Py_TYPE(self);
    State *state = self->state;
    PyObject_GC_UnTrack(self);
    if (state->active == self)
        state->active = NULL;
    if (state->latest == self)
        state->latest = NULL;
    scheduler_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
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

static PyType_Spec scheduler_spec = {
    .name = "tailrace._core.native.Scheduler",
    .basicsize = sizeof(Scheduler),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = scheduler_slots,
};
