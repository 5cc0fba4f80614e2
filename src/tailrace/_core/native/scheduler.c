/* Schedulers: what each event loop has of its own, and the turn in which it resumes the ready.
 *
 * One `call_soon` serves a burst of wake-ups. A turn ends after so many steps or so much time,
 * whichever is first, so that timers and sockets are served; what is left has the next turn.
 * Any thread may push; whoever finds the scheduler idle has its loop woken.
 *
 * The clock is read after a stride of steps, which follows how long they take: reading it at each
 * step would cost a tenth of a hop.
 */
#include "native.h"

#define LONGEST_STRIDE 64

/* --- which loop -------------------------------------------------------------------------------- */

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
    Py_DECREF(loop); /* the thread that runs it has another */
    return Py_IsNone(loop) ? NULL : loop;
}

/* Whether the loop can still resume anybody: not once it was closed. */
static bool is_reachable(Scheduler *scheduler) {
    int closed = truth(PyObject_CallNoArgs(scheduler->is_closed));
    if (closed < 0) /* a signal handler's exception, say: it does not mean that it is closed */
        PyErr_WriteUnraisable(scheduler->is_closed);
    return closed <= 0;
}

static Scheduler *scheduler_make(State *state, PyObject *loop) {
    Scheduler *self = (Scheduler *)state->Scheduler->tp_alloc(state->Scheduler, 0);
    if (self == NULL)
        return NULL;
    self->state = state;
    PyObject *parts = PyObject_CallOneArg(state->parts_of, loop);
    if (parts == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    int timeless = 0;
    bool good = PyArg_ParseTuple(parts, "OOOOOOOp", &self->loop, &self->call_soon,
                                 &self->call_soon_threadsafe, &self->is_closed, &self->time,
                                 &self->future_arguments, &self->context, &timeless);
    for (PyObject **part = &self->loop; part <= &self->context; part++)
        Py_XINCREF(*part);
    Py_DECREF(parts);
    self->timeless = timeless;
    self->stride = 1;
    self->now = -1.0;
    self->run = good ? PyObject_GetAttrString((PyObject *)self, "run") : NULL;
    self->get_loop = self->run != NULL ? PyObject_GetAttrString((PyObject *)self, "get_loop") : NULL;
    if (self->get_loop == NULL)
        Py_CLEAR(self);
    return self;
}

/* The scheduler that belongs to `loop`: a reference. It lives as long as an actor or a parked task
 * needs it, or its turn is on its way, so that a closed loop is forgotten with all it had: those
 * that live are known, by the address of their loop, to a WeakValueDictionary. */
static Scheduler *scheduler_of(State *state, PyObject *loop) {
    if (state->latest != NULL && state->latest->loop == loop)
        return (Scheduler *)Py_NewRef(state->latest);
    PyObject *key = PyLong_FromVoidPtr(loop), *known = NULL;
    if (key != NULL)
        known = PyObject_CallMethodOneArg(state->schedulers, state->str_get, key);
    if (known != NULL && Py_IsNone(known)) {
        Py_SETREF(known, (PyObject *)scheduler_make(state, loop));
        if (known != NULL && PyObject_SetItem(state->schedulers, key, known) < 0)
            Py_CLEAR(known);
    }
    Py_XDECREF(key);
    if (known != NULL)
        state->latest = (Scheduler *)known;
    return (Scheduler *)known;
}

/* That of the loop that runs here, a reference; NULL with an error set if none does. */
static Scheduler *scheduler_here(State *state) {
    PyObject *loop = running_loop(state);
    if (loop != NULL)
        return scheduler_of(state, loop);
    PyErr_SetString(PyExc_RuntimeError,
                    "no running event loop to wait on; from a thread use channel.sync");
    return NULL;
}

/* --- time -------------------------------------------------------------------------------------- */

static double read_clock(PyObject *clock) {
    PyObject *now = PyObject_CallNoArgs(clock);
    double seconds = now != NULL ? PyFloat_AsDouble(now) : 0.0;
    Py_XDECREF(now);
    PyErr_Clear();
    return seconds;
}

/* The loop's time, read once between two looks at the clock while it steps. */
static double scheduler_now(Scheduler *self) {
    if (self->now >= 0.0)
        return self->now;
    double now = read_clock(self->time);
    if (active_here(self->state) == self)
        self->now = now;
    return now;
}

/* A step of its begins in this thread. */
static inline void scheduler_enter(Scheduler *self) {
    self->state->active = self;
    self->thread = PyThreadState_Get();
    self->now = -1.0;
}

/* --- resuming ---------------------------------------------------------------------------------- */

/* Have the loop call `callback` in its next turn, with `argument` unless that is NULL: by `call`, one
 * of its two methods for that. */
static int have_called(Scheduler *self, PyObject *call, PyObject *callback, PyObject *argument) {
    PyObject *given[] = {callback, argument != NULL ? argument : self->context, self->context};
    size_t count = argument != NULL ? 2 : 1;
    return answered(PyObject_Vectorcall(call, given, count, self->state->context_names)) ? 0 : -1;
}

/* Have `run` called: soon if we are on the loop's own thread, else by waking it. */
static void schedule(Scheduler *self) {
    bool here = running_loop(self->state) == self->loop;
    self->scheduled = true;
    if (have_called(self, here ? self->call_soon : self->call_soon_threadsafe, self->run, NULL) == 0)
        return;
    self->scheduled = false; /* closed since the claim: its tasks give back when they are torn down */
    if (!PyErr_ExceptionMatches(PyExc_RuntimeError))
        PyErr_WriteUnraisable(self->loop);
    PyErr_Clear();
}

/* Have `item`, an actor or a sleeper (whose reference is taken), resumed by its loop. */
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

/* The same for a party whose budget is spent: at the back of the line. It may have taken long, so the
 * clock is read after this step. */
static void scheduler_push_yielded(Scheduler *self, PyObject *item) {
    self->steps += YIELD_STEPS;
    self->look = 1;
    scheduler_push(self, item);
}

/* Before something is given to the loop: whoever is ready now has its turn before that, even if
 * this turn, or the next one, would end first. */
static void scheduler_keep_order(Scheduler *self) {
    if (self->ready.count == 0)
        return;
    self->owed = self->resumed + self->ready.count;
    if (self->turning && !self->again) {
        schedule(self);
        self->again = self->scheduled; /* not if the loop was closed */
    }
}

/* Make `actor` the loop's current task, or nobody. */
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

/* The step is over: nobody is the current task. */
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

/* Call back a task that is none of ours, as a handle of its loop would. */
static int resume_task(Scheduler *self, Sleeper *sleeper) {
    PyObject *callback = sleeper->driver, *context = sleeper->context;
    bool done = false;
    if (callback == NULL || context == NULL)
        return 0;
    sleeper->driver = sleeper->context = NULL;
    sleeper->party = NOBODY;
    sleeper->encumbered &= ~FOR_A_TASK;
    Py_CLEAR(sleeper->scheduler);
    if (set_current(self, NULL) == 0 && PyContext_Enter(context) == 0) {
        done = answered(PyObject_CallOneArg(callback, (PyObject *)sleeper));
        PyContext_Exit(context);
        forget_handed_out(self->state);
    }
    Py_DECREF(callback);
    Py_DECREF(context);
    return done ? 0 : -1;
}

static int resume_item(Scheduler *self, PyObject *item) {
    if (LIKELY(is_actor(self->state, item)))
        return actor_resume((Actor *)item);
    return resume_task(self, (Sleeper *)item);
}

/* After a stride: false once the turn's time is over. */
static bool has_time(Scheduler *self, double *last, double ends) {
    double now = read_clock(self->state->monotonic);
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

/* Nobody is ready any more: have `on_quiet` called, in the loop's next turn. */
static COLD int tell_quiet(Scheduler *self) {
    PyObject *told = self->on_quiet;
    self->on_quiet = NULL;
    int failed = have_called(self, self->call_soon, told, NULL);
    Py_DECREF(told);
    return failed;
}

/* One turn: resume the ready and those whom they wake, within bounds, in order. */
static PyObject *scheduler_run(Scheduler *self, PyObject *unused) {
    int failed = 0;
    double last = self->timeless ? 0.0 : read_clock(self->state->monotonic);
    double ends = last + TURN_SECONDS;
    Py_ssize_t owed = self->owed; /* as it is now: what this turn adds is for the next one */
    self->scheduled = self->turning = true;
    self->again = false;
    self->steps = 0;
    self->look = self->stride;
    scheduler_enter(self);
    while (self->ready.count > 0 && failed == 0 &&
           (self->steps < TURN_STEPS || self->resumed < owed)) {
        PyObject *item = ring_pop(&self->ready);
        self->resumed++;
        self->state->active = self; /* another thread may have had its turn */
        failed = resume_item(self, item);
        Py_DECREF(item);
        self->steps++;
        if (UNLIKELY(--self->look <= 0) && !self->timeless && failed == 0) {
            if (!has_time(self, &last, ends) && self->resumed >= owed)
                break;
            self->look = self->stride;
        }
    }
    scheduler_leave(self);
    self->turning = false;
    self->scheduled = self->again;
    if (self->ready.count > 0 && !self->again) {
        PyObject *error = take_exception();
        schedule(self);
        raise_exception(error);
    }
    if (UNLIKELY(self->on_quiet != NULL) && !self->scheduled && failed == 0)
        failed = tell_quiet(self);
    if (failed < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- the type ---------------------------------------------------------------------------------- */

static int scheduler_traverse(Scheduler *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    VISIT_ALL(self->loop, self->on_quiet);
    return ring_traverse(&self->ready, visit, arg);
}

static int scheduler_clear(Scheduler *self) {
    CLEAR_ALL(self->loop, self->on_quiet);
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
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    scheduler_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *scheduler_get_loop(Scheduler *self, PyObject *unused) {
    return Py_NewRef(self->loop);
}

static PyMethodDef scheduler_methods[] = {
    {"get_loop", PLAIN(scheduler_get_loop), "The loop that it serves."},
    {"run", PLAIN(scheduler_run), "One turn: resume the ready."},
    {NULL},
};

static PyMemberDef scheduler_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Scheduler, weakrefs), READONLY, NULL},
    {"_scheduled", T_BOOL, offsetof(Scheduler, scheduled), READONLY, NULL},
    {"_on_quiet", T_OBJECT, offsetof(Scheduler, on_quiet), 0, NULL},
    {NULL},
};

static PyType_Slot scheduler_slots[] = {
    {Py_tp_doc, "Resumes the parties of one event loop."},
    {Py_tp_dealloc, scheduler_dealloc},
    {Py_tp_traverse, scheduler_traverse},
    {Py_tp_clear, scheduler_clear},
    {Py_tp_methods, scheduler_methods},
    {Py_tp_members, scheduler_members},
    {0, NULL},
};

static PyType_Spec scheduler_spec = {
    .name = "tailrace._core.native.Scheduler",
    .basicsize = sizeof(Scheduler),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = scheduler_slots,
};
