/* Select: one waiter in several queues, so that exactly one of its cases happens.
 *
 * The cases are attempted in random order; if none can happen, all are parked. Between the first
 * attempt and the last case that is parked no user code runs: if it had to (a loop was asked whether
 * it is closed), the attempts are repeated.
 */
#include "native.h"

/* Case `n`; NULL for None. */
static inline Operation *case_at(Select *self, Py_ssize_t n) {
    PyObject *each = PyTuple_GET_ITEM(self->cases, n);
    return Py_IsNone(each) ? NULL : (Operation *)each;
}

static inline Py_ssize_t case_count(Select *self) {
    return PyTuple_GET_SIZE(self->cases);
}

/* --- the choice -------------------------------------------------------------------------------- */

/* A random whole number in [0, n): Knuth's 64-bit LCG, its high half scaled. */
static inline int rng_below(State *state, int n) {
    state->rng = state->rng * 6364136223846793005u + 1442695040888963407u;
    return (int)(((state->rng >> 32) * (uint64_t)n) >> 32);
}

/* The order of the attempts (Fisher and Yates, as Knuth writes it). */
static void shuffle(Select *self, Py_ssize_t *order) {
    for (Py_ssize_t n = 0; n < case_count(self); n++)
        order[n] = n;
    for (Py_ssize_t last = case_count(self) - 1; last > 0 && !self->priority; last--) {
        int other = rng_below(self->base.state, (int)last + 1);
        Py_ssize_t swapped = order[last];
        order[last] = order[other];
        order[other] = swapped;
    }
}

/* Ask the futures and events first, as that is user code; the answer is kept in `blocking`. */
static bool ask_done_cases(Select *self) {
    Effects unused;
    for (Py_ssize_t n = 0; n < case_count(self); n++) {
        Operation *each = case_at(self, n);
        if (each == NULL || each->base.kind != DONE)
            continue;
        AttemptResult attempted = attempt_done(each, &unused);
        if (attempted == FAILED)
            return false;
        each->base.blocking = attempted == SUCCESS;
    }
    return true;
}

/* Attempt one after another: the winner is the first that can happen. */
static AttemptResult attempt_in_order(Select *self, const Py_ssize_t *order) {
    bool again;
    do {
        again = false;
        for (Py_ssize_t n = 0; n < case_count(self); n++) {
            Operation *each = case_at(self, order[n]);
            if (each == NULL)
                continue;
            Effects effects = {NULL};
            AttemptResult attempted = each->base.kind != DONE ? attempt(each, &effects)
                              : each->base.blocking   ? SUCCESS
                                                      : WAIT;
            if (attempted != WAIT) {
                self->winner = each;
                apply(self->base.state, &effects);
                return attempted;
            }
            again |= effects.user_code_ran;
        }
    } while (again);
    return WAIT;
}

/* Park all cases. Futures and events come last: to watch one runs user code. */
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

/* Do the first case that can happen. If none can, park all if `may_park`. */
static AttemptResult attempt_or_park(Select *self, bool may_park) {
    Py_ssize_t few[FEW_CASES];
    Py_ssize_t *order = case_count(self) <= FEW_CASES ? few : PyMem_New(Py_ssize_t, case_count(self));
    AttemptResult attempted = FAILED;
    if (order == NULL)
        PyErr_NoMemory();
    else if (ask_done_cases(self)) {
        shuffle(self, order);
        attempted = attempt_in_order(self, order);
        if (attempted == WAIT && may_park && !park_all(self, order))
            attempted = FAILED;
    }
    if (order != few)
        PyMem_Free(order);
    return attempted;
}

/* --- leaving ----------------------------------------------------------------------------------- */

/* Remove all cases but the winner from their queues. Atomic: frees nothing, as the select holds them. */
static void select_leave(Select *self, Operation *winner) {
    self->winner = winner;
    for (Py_ssize_t n = 0; n < case_count(self); n++) {
        Operation *each = case_at(self, n);
        if (each == NULL || each == winner)
            continue;
        if (each->queue != NULL) {
            leave_queue(each);
            Py_DECREF(each);
        }
        if (each->select != NULL && each->base.kind != DONE) {
            each->select = NULL;
            Py_DECREF(self); /* frees nothing: the claimer has a reference */
        }
    }
}

/* Stop the timer and the watches of a select that is no longer parked: 0, or -1 with an error. */
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

/* Undo a parking that failed, as if it had been cancelled; the error stays set. */
static void give_up(Select *self) {
    PyObject *error = PyErr_GetRaisedException();
    if (!claim(&self->base, CANCELLED, NULL) && self->base.claim == HAPPENED)
        undo(self->winner);
    release(self);
    PyErr_Clear();
    PyErr_SetRaisedException(error);
}

/* --- the result -------------------------------------------------------------------------------- */

static PyObject *closed_value(Operation *operation) {
    PyObject *error = closed_error(operation->channel);
    if (error == NULL || (receives(operation) && operation->channel->cause == NULL))
        return error;
    return raise_new(error);
}

static PyObject *index_and_value(Select *self, AttemptResult attempted) {
    Py_ssize_t index = 0;
    while (case_at(self, index) != self->winner)
        index++;
    PyObject *value = attempted == CLOSED ? closed_value(self->winner) : take_value(self->winner);
    PyObject *number = value != NULL ? PyLong_FromSsize_t(index) : NULL;
    PyObject *pair = number != NULL ? PyTuple_Pack(2, number, value) : NULL;
    Py_XDECREF(number);
    Py_XDECREF(value);
    return pair;
}

/* Attempt, and if need be sleep. */
static PySendResult select_step(Select *self, PyObject **result) {
    State *state = self->base.state;
    AttemptResult attempted = attempt_or_park(self, true);
    if (attempted == SUCCESS || attempted == CLOSED) {
        state->budget--;
        *result = index_and_value(self, attempted);
        return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
    }
    if (attempted == WAIT && !Py_IsNone(self->timeout)) {
        self->timer = PyObject_CallFunctionObjArgs(state->wake_after, self->timeout, self, NULL);
        if (self->timer == NULL)
            attempted = FAILED;
    }
    if (attempted == WAIT)
        return yield_itself(&self->base, result);
    if (self->base.phase == PARKED)
        give_up(self);
    return PYGEN_ERROR;
}

/* --- the calls --------------------------------------------------------------------------------- */

/* Take the cases. All operations are marked used, so that a refusal of one does not make the others
 * warn. The first refusal is raised. */
static bool take_cases(Select *self, PyObject *const *cases, Py_ssize_t count) {
    State *state = self->base.state;
    Py_ssize_t refused = -1;
    for (Py_ssize_t n = 0; n < count; n++) {
        Waiter *each = PyObject_TypeCheck(cases[n], state->Operation) ? (Waiter *)cases[n] : NULL;
        bool fresh = each != NULL && each->phase == FRESH;
        if (fresh)
            each->phase = SPENT;
        bool good = fresh && (each->kind <= SEND || each->kind == DONE);
        if (!good && !Py_IsNone(cases[n]) && refused < 0)
            refused = n;
        PyTuple_SET_ITEM(self->cases, n, Py_NewRef(cases[n]));
    }
    if (refused >= 0)
        Py_XDECREF(PyObject_CallFunction(state->raise_no_case, "nO", refused, cases[refused]));
    return refused < 0;
}

/* Take the keywords, which `read` checks: the timeout, and `priority`. */
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
    self->base.phase = SPENT; /* until the arguments are found good */
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
        return PyErr_Format(PyExc_ValueError, "select without a case and without a timeout would wait forever");
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
    AttemptResult attempted = attempt_or_park(self, false);
    if (attempted == WAIT)
        PyErr_SetString(state->WouldBlock, "no case of select is ready");
    PyObject *pair = attempted == SUCCESS || attempted == CLOSED ? index_and_value(self, attempted) : NULL;
    Py_DECREF(self);
    return pair;
}
