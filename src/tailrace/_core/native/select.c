/* Select: one sleeper standing in several lines, so that exactly one of its cases happens.
 *
 * Cases are attempted in random order, each by the one algorithm, and if none can happen all are
 * parked. From the first attempt of the last pass to the last case in line no code of others runs;
 * where it had to (a loop asked whether it is closed), the pass is repeated.
 */
#include "native.h"

/* One of its cases; NULL for none. */
static inline Operation *case_at(Select *self, Py_ssize_t n) {
    PyObject *each = PyTuple_GET_ITEM(self->cases, n);
    return Py_IsNone(each) ? NULL : (Operation *)each;
}

static inline Py_ssize_t case_count(Select *self) {
    return PyTuple_GET_SIZE(self->cases);
}

/* --- the choice -------------------------------------------------------------------------------- */

/* A random whole number in [0, n): Knuth's 64-bit LCG, its high half scaled. */
static inline int dice_below(State *state, int n) {
    state->dice = state->dice * 6364136223846793005u + 1442695040888963407u;
    return (int)(((state->dice >> 32) * (uint64_t)n) >> 32);
}

/* The cases in the order of their chances (Fisher and Yates, as Knuth writes it). */
static void shuffle(Select *self, Py_ssize_t *order) {
    for (Py_ssize_t n = 0; n < case_count(self); n++)
        order[n] = n;
    for (Py_ssize_t last = case_count(self) - 1; last > 0 && !self->priority; last--) {
        int other = dice_below(self->base.state, (int)last + 1);
        Py_ssize_t swapped = order[last];
        order[last] = order[other];
        order[other] = swapped;
    }
}

/* Ask the futures and events first, as that is code of others; the answer is kept in `blocking`. */
static bool ask_done_cases(Select *self) {
    Effects unused;
    for (Py_ssize_t n = 0; n < case_count(self); n++) {
        Operation *each = case_at(self, n);
        if (each == NULL || each->base.kind != DONE)
            continue;
        Verdict verdict = attempt_done(each, &unused);
        if (verdict == FAILED)
            return false;
        each->base.blocking = verdict == SUCCESS;
    }
    return true;
}

/* Attempt one after another: the winner is the first that does not have to wait. */
static Verdict attempt_in_order(Select *self, const Py_ssize_t *order) {
    bool again;
    do {
        again = false;
        for (Py_ssize_t n = 0; n < case_count(self); n++) {
            Operation *each = case_at(self, order[n]);
            if (each == NULL)
                continue;
            Effects effects = {NULL};
            Verdict verdict = each->base.kind != DONE ? attempt(each, &effects)
                              : each->base.blocking   ? SUCCESS
                                                      : PENDING;
            if (verdict != PENDING) {
                self->winner = each;
                pay(self->base.state, &effects);
                return verdict;
            }
            again |= effects.asked;
        }
    } while (again);
    return PENDING;
}

/* Stand in all lines; the futures and events, whose watching is code of others, come last. */
static bool park_all(Select *self, const Py_ssize_t *order) {
    self->base.phase = PARKED;
    self->base.claim = UNCLAIMED;
    for (int others = 0; others < 2; others++)
        for (Py_ssize_t n = 0; n < case_count(self); n++) {
            Operation *each = case_at(self, order[n]);
            if (each != NULL && (each->base.kind == DONE) == others && !park(each, self))
                return false;
        }
    return true;
}

/* Do the one that can happen; if none can, stand in all lines where that is wanted. */
static Verdict attempt_or_park(Select *self, bool may_park) {
    Py_ssize_t few[FEW_CASES];
    Py_ssize_t *order = case_count(self) <= FEW_CASES ? few : PyMem_New(Py_ssize_t, case_count(self));
    Verdict verdict = FAILED;
    if (order == NULL)
        PyErr_NoMemory();
    else if (ask_done_cases(self)) {
        shuffle(self, order);
        verdict = attempt_in_order(self, order);
        if (verdict == PENDING && may_park && !park_all(self, order))
            verdict = FAILED;
    }
    if (order != few)
        PyMem_Free(order);
    return verdict;
}

/* --- leaving ----------------------------------------------------------------------------------- */

/* Take all cases but the winner out of line: atomic, and frees nothing, as the select has them. */
static void select_leave(Select *self, Operation *winner) {
    self->winner = winner;
    for (Py_ssize_t n = 0; n < case_count(self); n++) {
        Operation *each = case_at(self, n);
        if (each == NULL || each == winner)
            continue;
        if (each->line != NULL) {
            leave_line(each);
            Py_DECREF(each);
        }
        if (each->select != NULL && each->base.kind != DONE) {
            each->select = NULL;
            Py_DECREF(self); /* whoever claims it has a reference */
        }
    }
}

/* Stop the timer and the watches of a select that is no longer asleep: 0, or -1 with an error. */
static int release(Select *self) {
    PyObject *timer = self->timer;
    int failed = 0;
    Py_INCREF(self);
    for (Py_ssize_t n = 0; n < case_count(self); n++) {
        Operation *each = case_at(self, n);
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

/* As if it had been cancelled, for an error in falling asleep, which stays set. */
static void give_up(Select *self) {
    PyObject *error = take_exception();
    if (!claim(&self->base, CANCELLED, NULL) && self->base.claim == HAPPENED)
        undo(self->winner);
    release(self);
    PyErr_Clear();
    raise_exception(error);
}

/* --- what it gives ----------------------------------------------------------------------------- */

static PyObject *closed_value(Operation *operation) {
    PyObject *error = closed_error(operation->channel);
    if (error == NULL || (receives(operation) && operation->channel->cause == NULL))
        return error;
    raise_exception(error);
    return NULL;
}

static PyObject *index_and_value(Select *self, Verdict verdict) {
    Py_ssize_t index = 0;
    while (case_at(self, index) != self->winner)
        index++;
    PyObject *value = verdict == CLOSED ? closed_value(self->winner) : outcome(self->winner);
    PyObject *number = value != NULL ? PyLong_FromSsize_t(index) : NULL;
    PyObject *pair = number != NULL ? PyTuple_New(2) : NULL;
    if (pair == NULL) {
        Py_XDECREF(number);
        Py_XDECREF(value);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, number);
    PyTuple_SET_ITEM(pair, 1, value);
    return pair;
}

/* Attempt, and if need be sleep. */
static PySendResult select_step(Select *self, PyObject **result) {
    State *state = self->base.state;
    Verdict verdict = attempt_or_park(self, true);
    if (verdict == SUCCESS || verdict == CLOSED) {
        state->budget--;
        *result = index_and_value(self, verdict);
        return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
    }
    if (verdict == PENDING && !Py_IsNone(self->timeout)) {
        self->timer = PyObject_CallFunctionObjArgs(state->wake_after, self->timeout, self, NULL);
        if (self->timer == NULL)
            verdict = FAILED;
    }
    if (verdict == PENDING)
        return yield_itself(&self->base, result);
    if (self->base.phase == PARKED)
        give_up(self);
    return PYGEN_ERROR;
}

/* --- the calls --------------------------------------------------------------------------------- */

/* Take the cases. All operations are marked used, so that a refusal of one does not make the others
 * warn; the first refusal counts. */
static bool take_cases(Select *self, PyObject *const *cases, Py_ssize_t count) {
    State *state = self->base.state;
    Py_ssize_t refused = -1;
    for (Py_ssize_t n = 0; n < count; n++) {
        Sleeper *each = is_operation(state, cases[n]) ? (Sleeper *)cases[n] : NULL;
        bool fresh = each != NULL && each->phase == FRESH;
        if (fresh)
            each->phase = SPENT;
        bool good = fresh && (each->kind <= SEND || each->kind == DONE);
        if (!good && !Py_IsNone(cases[n]) && refused < 0)
            refused = n;
        PyTuple_SET_ITEM(self->cases, n, Py_NewRef(cases[n]));
    }
    if (refused >= 0)
        Py_XDECREF(PyObject_CallFunction(state->refuse_case, "nO", refused, cases[refused]));
    return refused < 0;
}

/* Have `read` make of the keywords what they say: the timeout, and `priority`. */
static bool take_options(Select *self, PyObject *const *values, PyObject *names, PyObject *read) {
    int priority = 0;
    PyObject *timeout, *options = PyObject_Vectorcall(read, values, 0, names);
    bool good = options != NULL && PyArg_ParseTuple(options, "Op", &timeout, &priority);
    if (good)
        Py_XSETREF(self->timeout, Py_NewRef(timeout));
    self->priority = priority;
    Py_XDECREF(options);
    return good;
}

static Select *select_new(State *state, PyObject *const *args, Py_ssize_t count, PyObject *names,
                          PyObject *read) {
    Select *self = (Select *)state->Select->tp_alloc(state->Select, 0);
    if (self == NULL)
        return NULL;
    self->base.state = state;
    self->base.kind = SELECT;
    self->base.phase = SPENT; /* until it is to be awaited */
    self->timeout = Py_NewRef(Py_None);
    self->cases = PyTuple_New(count);
    if (self->cases == NULL || !take_cases(self, args, count) ||
        (names != NULL && !take_options(self, args + count, names, read)))
        Py_CLEAR(self);
    return self;
}

static PyObject *select_call(PyObject *module, PyObject *const *args, Py_ssize_t count,
                             PyObject *names) {
    State *state = PyModule_GetState(module);
    Select *self = select_new(state, args, count, names, state->select_options);
    if (self == NULL)
        return NULL;
    bool something = !Py_IsNone(self->timeout);
    for (Py_ssize_t n = 0; n < count && !something; n++)
        something = case_at(self, n) != NULL;
    if (!something) {
        Py_DECREF(self);
        PyErr_SetString(PyExc_ValueError,
                        "select without a case and without a timeout would wait forever");
        return NULL;
    }
    self->base.phase = FRESH;
    return (PyObject *)self;
}

static PyObject *select_nowait_call(PyObject *module, PyObject *const *args, Py_ssize_t count,
                                    PyObject *names) {
    State *state = PyModule_GetState(module);
    Select *self = select_new(state, args, count, names, state->select_nowait_options);
    if (self == NULL)
        return NULL;
    Verdict verdict = attempt_or_park(self, false);
    if (verdict == PENDING)
        PyErr_SetString(state->WouldBlock, "no case of select is ready");
    PyObject *pair = verdict == SUCCESS || verdict == CLOSED ? index_and_value(self, verdict) : NULL;
    Py_DECREF(self);
    return pair;
}

/* --- the type ---------------------------------------------------------------------------------- */

static int select_traverse(Select *self, visitproc visit, void *arg) {
    VISIT_ALL(self->cases, self->timer);
    return sleeper_traverse(&self->base, visit, arg);
}

static int select_clear(Select *self) {
    if (self->base.phase == PARKED)
        claim(&self->base, CANCELLED, NULL);
    self->base.phase = SPENT;
    CLEAR_ALL(self->timeout, self->timer); /* the cases stay: a cycle through one is broken there */
    sleeper_clear(&self->base);
    return 0;
}

static void select_dealloc(Select *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->base.phase == FRESH && PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0)
        return;
    PyObject_GC_UnTrack(self);
    select_clear(self);
    Py_XDECREF(self->cases);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef select_members[] = {
    {"cases", T_OBJECT, offsetof(Select, cases), READONLY, "The operations it chooses among."},
    {"timeout", T_OBJECT, offsetof(Select, timeout), READONLY, "In seconds; None for none."},
    {NULL},
};

static PyType_Slot select_slots[] = {
    {Py_tp_doc, "What `select` returns: await it once for ``(index, value)``."},
    {Py_tp_dealloc, select_dealloc},
    {Py_tp_finalize, sleeper_finalize},
    {Py_tp_traverse, select_traverse},
    {Py_tp_clear, select_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, sleeper_iternext},
    {Py_am_await, sleeper_await},
    {Py_am_send, sleeper_send},
    {Py_tp_members, select_members},
    {0, NULL},
};

static PyType_Spec select_spec = {
    .name = "tailrace._core.native.Select",
    .basicsize = sizeof(Select),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = select_slots,
};
