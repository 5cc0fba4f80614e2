/* Select: one sleeper standing in several lines, so that exactly one of its cases happens.
 *
 * Cases are attempted in random order, each by the one algorithm, and if none can happen all are
 * parked. From the first attempt of the last pass to the last case in line no code of others runs;
 * where it had to (a loop asked whether it is closed), the pass is repeated.
 */
#include "native.h"

enum { NONE_READY = -1, RAISED = -2 }; /* instead of the index of a case */

/* --- the choice -------------------------------------------------------------------------------- */

/* A random whole number in [0, n): Knuth's 64-bit LCG, its high half scaled. */
static inline int
dice_below(State *state, int n)
{
    state->dice = state->dice * 6364136223846793005u + 1442695040888963407u;
    return (int)(((state->dice >> 32) * (uint64_t)n) >> 32);
}

/* The cases in the order of their chances (Fisher and Yates, as Knuth writes it). */
static void
shuffle(Select *self, Py_ssize_t *order)
{
    for (Py_ssize_t n = 0; n < self->count; n++)
        order[n] = n;
    for (Py_ssize_t last = self->count - 1; last > 0 && !self->priority; last--) {
        int other = dice_below(self->base.state, (int)last + 1);
        Py_ssize_t swapped = order[last];
        order[last] = order[other];
        order[other] = swapped;
    }
}

/* Ask the futures and events first, as that is code of others; the answer is kept in `blocking`. */
static bool
ask_done_cases(Select *self)
{
    for (Py_ssize_t n = 0; n < self->count; n++) {
        Operation *each = self->cases[n];
        if (each == NULL || each->base.kind != DONE)
            continue;
        Effects effects = {NULL, NULL, false};
        Verdict verdict = attempt_done(each, &effects);
        if (verdict == FAILED)
            return false;
        each->base.blocking = verdict == SUCCESS;
    }
    return true;
}

/* Attempt one after another: the index of the case that happened, or whose channel is `closed`. */
static Py_ssize_t
attempt_in_order(Select *self, const Py_ssize_t *order, bool *closed)
{
    bool again;
    do {
        again = false;
        for (Py_ssize_t n = 0; n < self->count; n++) {
            Operation *each = self->cases[order[n]];
            if (each == NULL)
                continue;
            Effects effects = {NULL, NULL, false};
            Verdict verdict = each->base.kind != DONE ? attempt(each, &effects)
                              : each->base.blocking   ? SUCCESS
                                                      : PENDING;
            if (verdict == PENDING) {
                again |= effects.asked;
                continue;
            }
            if (verdict == FAILED)
                return RAISED;
            *closed = verdict == CLOSED;
            pay(self->base.state, &effects);
            return order[n];
        }
    } while (again);
    return NONE_READY;
}

/* Stand in all lines; the futures and events, whose watching is code of others, come last. */
static bool
park_all(Select *self, const Py_ssize_t *order)
{
    self->base.phase = PARKED;
    self->base.claim = UNCLAIMED;
    self->base.blocking = true;
    for (int others = 0; others < 2; others++)
        for (Py_ssize_t n = 0; n < self->count; n++) {
            Operation *each = self->cases[order[n]];
            if (each != NULL && (each->base.kind == DONE) == others && !park(each, self))
                return false;
        }
    return true;
}

/* As if it had been cancelled, for an error in falling asleep, which stays set. */
static void
give_up(Select *self)
{
    PyObject *error = take_exception();
    if (!claim(&self->base, CANCELLED, NULL) && self->base.claim == HAPPENED)
        undo(self->winner);
    release(self);
    PyErr_Clear();
    raise_exception(error);
}

/* The index of the case that happened; if none could, all are parked where that is wanted. */
static Py_ssize_t
attempt_or_park(Select *self, bool may_park, bool *closed)
{
    Py_ssize_t few[FEW_CASES], index = RAISED;
    Py_ssize_t *order = self->count <= FEW_CASES ? few : PyMem_New(Py_ssize_t, self->count);
    if (order == NULL)
        PyErr_NoMemory();
    else if (ask_done_cases(self)) {
        shuffle(self, order);
        index = attempt_in_order(self, order, closed);
        if (index == NONE_READY && may_park && !park_all(self, order)) {
            give_up(self);
            index = RAISED;
        }
    }
    if (order != few)
        PyMem_Free(order);
    return index;
}

/* --- leaving ----------------------------------------------------------------------------------- */

/* Take all cases but the winner out of line: atomic, and frees nothing, as the select has them. */
static void
select_leave(Select *self, Operation *winner)
{
    self->winner = winner;
    for (Py_ssize_t n = 0; n < self->count; n++) {
        Operation *each = self->cases[n];
        if (each == NULL || each == winner)
            continue;
        if (each->base.queued) {
            queue_unlink(queue_of(each), each);
            Py_DECREF(each);
        }
        if (each->select != NULL && each->base.kind != DONE) {
            each->select = NULL;
            Py_DECREF(self); /* whoever claims it has a reference */
        }
    }
}

/* Stop the timer and the watches of a select that is no longer asleep: 0, or -1 with an error. */
static int
release(Select *self)
{
    PyObject *timer = self->timer;
    int failed = 0;
    Py_INCREF(self);
    for (Py_ssize_t n = 0; n < self->count; n++) {
        Operation *each = self->cases[n];
        if (each == NULL || each->select == NULL)
            continue;
        failed |= withdraw_done(each);
        Py_CLEAR(each->select);
    }
    self->timer = NULL;
    if (timer != NULL && !answered(PyObject_CallMethodNoArgs(timer, self->base.state->str_cancel)))
        failed = -1;
    Py_XDECREF(timer);
    Py_DECREF(self);
    return failed;
}

/* --- what it gives ----------------------------------------------------------------------------- */

static PyObject *
closed_value(Operation *operation)
{
    PyObject *error = closed_error(operation->channel);
    if (error == NULL || (receives(operation) && operation->channel->cause == NULL))
        return error;
    raise_exception(error);
    return NULL;
}

static PyObject *
index_and_value(Select *self, Py_ssize_t index, bool closed)
{
    Operation *chosen = self->cases[index];
    PyObject *value = closed ? closed_value(chosen) : outcome(chosen);
    PyObject *number = value != NULL ? PyLong_FromSsize_t(index) : NULL;
    PyObject *pair = number != NULL ? PyTuple_New(2) : NULL;
    if (pair == NULL) {
        Py_XDECREF(value);
        Py_XDECREF(number);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, number);
    PyTuple_SET_ITEM(pair, 1, value);
    return pair;
}

static PySendResult
give(Select *self, PyObject *value, PyObject **result)
{
    self->base.phase = SPENT;
    *result = value;
    return value != NULL ? PYGEN_RETURN : PYGEN_ERROR;
}

/* --- awaiting ---------------------------------------------------------------------------------- */

static bool
note_deadline(Select *self)
{
    Scheduler *scheduler = scheduler_here(self->base.state);
    if (scheduler == NULL)
        return false;
    scheduler->now = -1.0; /* a deadline is exact */
    self->deadline = scheduler_now(scheduler) + self->timeout;
    self->timing = DEADLINE;
    Py_DECREF(scheduler);
    return true;
}

static PySendResult
fall_asleep(Select *self, PyObject **result)
{
    State *state = self->base.state;
    if (self->timing == DEADLINE) {
        PyObject *wake = PyObject_GetAttr((PyObject *)self, state->str__wake);
        Scheduler *scheduler = wake != NULL ? scheduler_here(state) : NULL;
        if (scheduler != NULL)
            self->timer = PyObject_CallMethod(scheduler->loop, "call_at", "dOi", self->deadline, wake,
                                              TIMED_OUT);
        Py_XDECREF(scheduler);
        Py_XDECREF(wake);
        if (self->timer == NULL) {
            give_up(self);
            return give(self, NULL, result);
        }
    }
    return yield_itself(&self->base, result);
}

/* What woke it: PYGEN_NEXT to look again. */
static PySendResult
woken(Select *self, PyObject **result)
{
    if (release(self) < 0)
        return give(self, NULL, result);
    if (self->base.claim == HAPPENED) {
        Py_ssize_t index = 0;
        while (self->cases[index] != self->winner)
            index++;
        return give(self, index_and_value(self, index, false), result);
    }
    if (self->base.claim == TIMED_OUT)
        return give(self, PyTuple_Pack(2, Py_None, Py_None), result);
    unpark(&self->base, BEGUN);
    return PYGEN_NEXT;
}

static PySendResult
raise_select_used(void)
{
    PyErr_SetString(PyExc_RuntimeError, "select was awaited already: it is used once");
    return PYGEN_ERROR;
}

static PySendResult
select_send(PyObject *object, PyObject *arg, PyObject **result)
{
    Select *self = (Select *)object;
    Sleeper *sleeper = &self->base;
    bool closed = false;
    *result = NULL;
    if (sleeper->busy)
        return raise_busy(sleeper);
    if (sleeper->phase == SPENT)
        return raise_select_used();
    if (sleeper->phase == PARKED) {
        if (sleeper->claim == UNCLAIMED) /* driven by hand */
            return yield_itself(sleeper, result);
        PySendResult how = woken(self, result);
        if (how != PYGEN_NEXT)
            return how;
    }
    if (self->timing == TIMEOUT && !note_deadline(self))
        return give(self, NULL, result);
    if (sleeper->phase != YIELDED && budget_is_spent(sleeper->state)) {
        sleeper->phase = YIELDED;
        *result = Py_NewRef(Py_None);
        return PYGEN_NEXT;
    }
    sleeper->phase = BEGUN;
    sleeper->busy = true;
    Py_ssize_t index = attempt_or_park(self, true, &closed);
    sleeper->busy = false;
    if (index == NONE_READY)
        return fall_asleep(self, result);
    sleeper->state->budget--;
    return give(self, index >= 0 ? index_and_value(self, index, closed) : NULL, result);
}

static PyObject *
select_await(Select *self)
{
    if (self->base.phase != FRESH) {
        raise_select_used();
        return NULL;
    }
    self->base.phase = BEGUN;
    return Py_NewRef(self);
}

/* --- the calls --------------------------------------------------------------------------------- */

/* A new select: with room for so many cases, no case yet, and nothing to await. */
static Select *
select_alloc(State *state, Py_ssize_t count)
{
    Select *self;
    if (state->free_select_count > 0) {
        self = state->free_selects[--state->free_select_count];
        self->base.claim = UNCLAIMED;
    }
    else if ((self = (Select *)state->Select->tp_alloc(state->Select, 0)) == NULL)
        return NULL;
    self->base.state = state;
    self->base.phase = SPENT;
    self->timing = NO_TIMEOUT;
    self->priority = false;
    self->count = 0;
    self->cases = count > FEW_CASES ? PyMem_New(Operation *, count) : self->few;
    if (self->cases == NULL) {
        self->cases = self->few;
        Py_DECREF(self);
        PyErr_NoMemory();
        return NULL;
    }
    return self;
}

/* Take the cases. All operations are marked used, so that a refusal of one does not make the others
 * warn; the first refusal counts. */
static bool
take_cases(Select *self, PyObject *const *cases, Py_ssize_t count)
{
    State *state = self->base.state;
    PyObject *refused = NULL;
    for (Py_ssize_t n = 0; n < count; n++) {
        Operation *each = is_operation(state, cases[n]) ? (Operation *)cases[n] : NULL;
        bool fresh = each != NULL && each->base.phase == FRESH;
        if (fresh)
            each->base.phase = SPENT;
        if (fresh && (each->base.kind <= SEND || each->base.kind == DONE))
            self->cases[self->count++] = (Operation *)Py_NewRef(each);
        else if (Py_IsNone(cases[n]))
            self->cases[self->count++] = NULL;
        else if (refused == NULL)
            refused = Py_BuildValue("nO", n, cases[n]);
    }
    if (refused != NULL) {
        Py_XDECREF(PyObject_CallObject(state->refuse_case, refused));
        Py_DECREF(refused);
    }
    return self->count == count && !PyErr_Occurred();
}

static bool
set_timeout(Select *self, PyObject *given)
{
    PyObject *timeout = PyObject_CallOneArg(self->base.state->check_timeout, given);
    if (timeout == NULL)
        return false;
    if (!Py_IsNone(timeout)) {
        self->timeout = PyFloat_AsDouble(timeout);
        self->timing = TIMEOUT;
    }
    Py_DECREF(timeout);
    return !PyErr_Occurred();
}

/* Read the keywords: `timeout`, where that is allowed, and `priority`. */
static bool
set_options(Select *self, PyObject *const *values, PyObject *names, bool timed)
{
    for (Py_ssize_t n = 0; names != NULL && n < PyTuple_GET_SIZE(names); n++) {
        PyObject *name = PyTuple_GET_ITEM(names, n);
        if (timed && PyUnicode_CompareWithASCIIString(name, "timeout") == 0) {
            if (!set_timeout(self, values[n]))
                return false;
        }
        else if (PyUnicode_CompareWithASCIIString(name, "priority") == 0) {
            int first = PyObject_IsTrue(values[n]);
            if (first < 0)
                return false;
            self->priority = first;
        }
        else {
            PyErr_Format(PyExc_TypeError, "select() got an unexpected keyword argument %R", name);
            return false;
        }
    }
    return true;
}

static Select *
select_new(State *state, PyObject *const *args, Py_ssize_t count, PyObject *names, bool timed)
{
    Select *self = select_alloc(state, count);
    if (self == NULL)
        return NULL;
    bool good = take_cases(self, args, count);
    if (!good || !set_options(self, args + count, names, timed))
        Py_CLEAR(self);
    return self;
}

static PyObject *
select_call(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Select *self = select_new(PyModule_GetState(module), args, count, names, true);
    if (self == NULL)
        return NULL;
    bool something = self->timing == TIMEOUT;
    for (Py_ssize_t n = 0; n < count && !something; n++)
        something = self->cases[n] != NULL;
    if (!something) {
        Py_DECREF(self);
        PyErr_SetString(PyExc_ValueError,
                        "select without a case and without a timeout would wait forever");
        return NULL;
    }
    self->base.phase = FRESH;
    return (PyObject *)self;
}

static PyObject *
select_nowait_call(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    State *state = PyModule_GetState(module);
    Select *self = select_new(state, args, count, names, false);
    PyObject *pair = NULL;
    bool closed = false;
    if (self == NULL)
        return NULL;
    Py_ssize_t index = attempt_or_park(self, false, &closed);
    if (index >= 0)
        pair = index_and_value(self, index, closed);
    else if (index == NONE_READY)
        PyErr_SetString(state->WouldBlock, "no case of select is ready");
    Py_DECREF(self);
    return pair;
}

/* --- the type ---------------------------------------------------------------------------------- */

static int
select_traverse(Select *self, visitproc visit, void *arg)
{
    for (Py_ssize_t n = 0; n < self->count; n++)
        Py_VISIT(self->cases[n]);
    Py_VISIT(self->timer);
    return sleeper_traverse(&self->base, visit, arg);
}

static int
select_clear(Select *self)
{
    if (self->base.phase == PARKED)
        claim(&self->base, CANCELLED, NULL);
    while (self->count > 0) {
        Operation *last = self->cases[--self->count];
        Py_XDECREF(last);
    }
    if (self->cases != self->few)
        PyMem_Free(self->cases);
    self->cases = self->few;
    Py_CLEAR(self->timer);
    sleeper_clear(&self->base);
    return 0;
}

static void
select_dealloc(Select *self)
{
    PyTypeObject *type = Py_TYPE(self);
    State *state = self->base.state;
    if (self->base.phase == FRESH && PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0)
        return;
    if (state->free_select_count < FREE_SELECTS && !self->base.encumbered) {
        revive((PyObject *)self); /* first: nothing below may find it half gone */
        select_clear(self);
        if (state->free_select_count < FREE_SELECTS) { /* what it held may have filled the list */
            state->free_selects[state->free_select_count++] = self;
            return;
        }
        Py_SET_REFCNT(self, 0);
    }
    PyObject_GC_UnTrack(self);
    select_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
select_cases(Select *self, void *closure)
{
    PyObject *cases = PyTuple_New(self->count);
    for (Py_ssize_t n = 0; cases != NULL && n < self->count; n++) {
        PyObject *each = (PyObject *)self->cases[n];
        PyTuple_SET_ITEM(cases, n, Py_NewRef(each != NULL ? each : Py_None));
    }
    return cases;
}

static PyGetSetDef select_getset[] = {
    {"cases", (getter)select_cases, NULL, "The operations it chooses among.", NULL},
    {NULL},
};

static PyType_Slot select_slots[] = {
    {Py_tp_doc, "What `select` returns: await it once for ``(index, value)``."},
    {Py_tp_dealloc, select_dealloc},
    {Py_tp_finalize, operation_finalize},
    {Py_tp_traverse, select_traverse},
    {Py_tp_clear, select_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, operation_iternext},
    {Py_am_await, select_await},
    {Py_am_send, select_send},
    {Py_tp_getset, select_getset},
    {0, NULL},
};

static PyType_Spec select_spec = {
    .name = "tailrace._core.native.Select",
    .basicsize = sizeof(Select),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = select_slots,
};
