/* Select: one sleeper standing in several lines, so that exactly one of its cases happens.
 *
 * Cases are attempted in random order, each by the one algorithm, and if none can happen all are
 * parked. From the first attempt of the last pass to the last case in line no code of others runs;
 * where it had to (a loop asked whether it is closed), the pass is repeated.
 */
#include "native.h"

static int release(Select *self);
static int give_back_winner(Select *self);

/* --- the choice -------------------------------------------------------------------------------- */

/* The cases in the order of their chances (Fisher and Yates, as Knuth writes it). */
static Py_ssize_t *
order_of(State *state, Py_ssize_t count, bool priority, Py_ssize_t *few)
{
    Py_ssize_t *order = count <= FEW_CASES ? few : PyMem_New(Py_ssize_t, count);
    if (order == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t n = 0; n < count; n++)
        order[n] = n;
    for (Py_ssize_t last = count - 1; last > 0 && !priority; last--) {
        int other = dice_below(state, (int)last + 1);
        if (other < 0) {
            if (order != few)
                PyMem_Free(order);
            return NULL;
        }
        Py_ssize_t swapped = order[last];
        order[last] = order[other];
        order[other] = swapped;
    }
    return order;
}

/* Ask the futures and events first, as that is code of others; the answer is kept in `count`. */
static int
ask_done_cases(Select *self)
{
    for (Py_ssize_t n = 0; n < self->count; n++) {
        Operation *each = self->cases[n];
        if (each == NULL || each->base.kind != DONE)
            continue;
        Effects effects = {NULL, NULL, false};
        Verdict verdict = attempt(each, &effects);
        if (verdict == FAILED)
            return -1;
        each->count = verdict == SUCCESS;
    }
    return 0;
}

/* Attempt one after another: the index of the case that happened, or whose channel is `closed`;
 * -1 if none can happen now, -2 with an error set. */
static Py_ssize_t
attempt_in_order(Select *self, const Py_ssize_t *order, bool *closed)
{
    State *state = self->base.state;
    Py_ssize_t count = self->count;
    bool again;
    do {
        again = false;
        for (Py_ssize_t n = 0; n < count; n++) {
            Operation *each = self->cases[order[n]];
            if (each == NULL)
                continue;
            Effects effects = {NULL, NULL, false};
            Verdict verdict = each->base.kind != DONE ? attempt(each, &effects)
                              : each->count           ? SUCCESS
                                                      : PENDING;
            if (verdict == PENDING) {
                again |= effects.asked;
                continue;
            }
            if (verdict == FAILED)
                return -2;
            *closed = verdict == CLOSED;
            pay(state, &effects);
            return order[n];
        }
    } while (again);
    return -1;
}

static int
park_all(Select *self, const Py_ssize_t *order)
{
    Py_ssize_t count = self->count;
    self->base.phase = PARKED;
    self->base.claim = UNCLAIMED;
    self->base.blocking = true;
    for (Py_ssize_t n = 0; n < count; n++) {
        Operation *each = self->cases[order[n]];
        if (each != NULL && each->base.kind != DONE)
            park(each, self);
    }
    for (Py_ssize_t n = 0; n < count; n++) {
        Operation *each = self->cases[order[n]];
        if (each != NULL && each->base.kind == DONE && park(each, self) < 0) {
            PyObject *error = take_exception();
            if (!claim(&self->base, CANCELLED, NULL) && self->base.claim == HAPPENED)
                give_back_winner(self);
            release(self);
            PyErr_Clear();
            raise_exception(error);
            return -1;
        }
    }
    return 0;
}

/* The index of the case that happened, after parking if none could: -1 when parked, -2 for an
 * error. */
static Py_ssize_t
attempt_or_park(Select *self, bool may_park, bool *closed)
{
    Py_ssize_t few[FEW_CASES];
    Py_ssize_t *order =
        order_of(self->base.state, self->count, self->priority, few);
    if (order == NULL || ask_done_cases(self) < 0) {
        if (order != NULL && order != few)
            PyMem_Free(order);
        return -2;
    }
    Py_ssize_t index = attempt_in_order(self, order, closed);
    if (index == -1 && may_park && park_all(self, order) < 0)
        index = -2;
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

/* Stop the timer and the watches of a select that is no longer asleep. */
static int
release(Select *self)
{
    State *state = self->base.state;
    int failed = 0;
    Py_INCREF(self);
    for (Py_ssize_t n = 0; n < self->count; n++) {
        Operation *each = self->cases[n];
        if (each == NULL || each->select == NULL)
            continue;
        if (each->base.kind == DONE) {
            PyObject *gone = PyObject_CallMethodNoArgs((PyObject *)each, state->str_withdraw);
            failed |= gone == NULL;
            Py_XDECREF(gone);
        }
        Py_CLEAR(each->select);
    }
    if (self->timer != NULL) {
        PyObject *timer = self->timer;
        self->timer = NULL;
        PyObject *gone = PyObject_CallMethodNoArgs(timer, state->str_cancel);
        failed |= gone == NULL;
        Py_XDECREF(gone);
        Py_DECREF(timer);
    }
    Py_DECREF(self);
    return failed ? -1 : 0;
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

static PyObject *
winner_and_value(Select *self)
{
    Py_ssize_t index = 0;
    while (self->cases[index] != self->winner)
        index++;
    return index_and_value(self, index, false);
}

static PySendResult
give(Select *self, PyObject *value, PyObject **result)
{
    self->base.phase = SPENT;
    *result = value;
    return value != NULL ? PYGEN_RETURN : PYGEN_ERROR;
}

/* --- awaiting ---------------------------------------------------------------------------------- */

static int
note_deadline(Select *self)
{
    Scheduler *scheduler = scheduler_here(self->base.state);
    if (scheduler == NULL)
        return -1;
    scheduler->now = -1.0; /* a deadline is exact */
    self->deadline = scheduler_now(scheduler) + self->timeout;
    self->timing = DEADLINE;
    Py_DECREF(scheduler);
    return 0;
}

static int
start_timer(Select *self)
{
    State *state = self->base.state;
    PyObject *wake = PyObject_GetAttr((PyObject *)self, state->str_claim);
    PyObject *loop = running_loop(state);
    if (wake != NULL && loop == NULL)
        PyErr_SetString(PyExc_RuntimeError, "no running event loop");
    else if (wake != NULL)
        self->timer = PyObject_CallMethod(loop, "call_at", "dOi", self->deadline, wake, TIMED_OUT);
    Py_XDECREF(wake);
    return self->timer != NULL ? 0 : -1;
}

static PySendResult
fall_asleep(Select *self, PyObject **result)
{
    if (self->timing == DEADLINE && start_timer(self) < 0) {
        claim(&self->base, CANCELLED, NULL);
        PyObject *error = take_exception();
        release(self);
        PyErr_Clear();
        raise_exception(error);
        return give(self, NULL, result);
    }
    *result = Py_NewRef(self);
    return PYGEN_NEXT;
}

/* What woke it: PYGEN_NEXT to look again. */
static PySendResult
woken(Select *self, PyObject **result)
{
    if (release(self) < 0)
        return give(self, NULL, result);
    if (self->base.claim == HAPPENED)
        return give(self, winner_and_value(self), result);
    if (self->base.claim == TIMED_OUT)
        return give(self, PyTuple_Pack(2, Py_None, Py_None), result);
    sleeper_clear(&self->base);
    self->base.phase = BEGUN;
    return PYGEN_NEXT;
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
    if (sleeper->phase == SPENT) {
        PyErr_SetString(PyExc_RuntimeError, "select was awaited already: it is used once");
        return PYGEN_ERROR;
    }
    if (sleeper->phase == PARKED) {
        if (sleeper->claim == UNCLAIMED) { /* driven by hand */
            sleeper->blocking = true;
            *result = Py_NewRef(self);
            return PYGEN_NEXT;
        }
        PySendResult how = woken(self, result);
        if (how != PYGEN_NEXT)
            return how;
    }
    if (self->timing == TIMEOUT && note_deadline(self) < 0)
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
    if (index == -1)
        return fall_asleep(self, result);
    sleeper->state->budget--;
    return give(self, index >= 0 ? index_and_value(self, index, closed) : NULL, result);
}

static PyObject *
select_await(Select *self)
{
    if (self->base.phase != FRESH) {
        PyErr_SetString(PyExc_RuntimeError, "select was awaited already: it is used once");
        return NULL;
    }
    self->base.phase = BEGUN;
    return Py_NewRef(self);
}

/* What the winner was handed, if it was a receive, goes back to its place in the order. */
static int
give_back_winner(Select *self)
{
    Operation *winner = self->winner;
    PyObject *value = winner->value;
    if (winner->base.kind == DONE || !receives(winner) || value == NULL)
        return 0;
    winner->value = NULL;
    Effects effects = {NULL, NULL, false};
    int given = channel_give_back(winner->channel, winner->ticket, value, &effects);
    pay(self->base.state, &effects);
    return given;
}

/* As for an operation: 1 if the interrupt is to be raised, 0 if a send happened all the same. */
static int
select_interrupted(Select *self, PyObject *interrupt)
{
    Sleeper *sleeper = &self->base;
    bool parked = sleeper->phase == PARKED;
    if (sleeper->busy) {
        raise_busy(sleeper);
        return -1;
    }
    sleeper->phase = SPENT;
    if (!parked)
        return 1;
    claim(sleeper, CANCELLED, NULL);
    if (release(self) < 0)
        return -1;
    Operation *winner = self->winner;
    if (sleeper->claim != HAPPENED || winner->base.kind == DONE)
        return 1;
    if (!receives(winner)) {
        int put_off = rearmed(sleeper, interrupt);
        return put_off < 0 ? -1 : !put_off;
    }
    return give_back_winner(self) < 0 ? -1 : 1;
}

static PyObject *
select_throw(Select *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *error = interrupt_of(args, count);
    if (error == NULL)
        return NULL;
    int raise = select_interrupted(self, error);
    if (raise > 0) {
        raise_exception(error);
        return NULL;
    }
    Py_DECREF(error);
    PyObject *value = raise == 0 ? winner_and_value(self) : NULL;
    return value != NULL ? hand_out_anew(value) : NULL;
}

static PyObject *
select_close(Select *self, PyObject *unused)
{
    if (select_interrupted(self, NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- the calls --------------------------------------------------------------------------------- */

static int
refuse(State *state, Py_ssize_t index, PyObject *item)
{
    if (PyErr_Occurred())
        return -1; /* the first refusal counts */
    bool usable = is_operation(state, item) && ((Sleeper *)item)->kind != NEXT &&
                  ((Sleeper *)item)->kind != SEND_MANY && ((Sleeper *)item)->kind != RECV_MANY;
    if (usable)
        PyErr_Format(PyExc_RuntimeError, "case %zd of select was used already: %R", index, item);
    else
        PyErr_Format(PyExc_TypeError,
                     "case %zd of select is %R: give it an operation, such as channel.recv(), "
                     "channel.send(value) or done(future), or None for no case",
                     index, item);
    return -1;
}

/* Mark every operation used, so that a refusal of one does not make the others warn. */
static int
spend(State *state, PyObject *const *cases, Py_ssize_t count)
{
    int refused = 0;
    for (Py_ssize_t n = 0; n < count; n++) {
        if (Py_IsNone(cases[n]))
            continue;
        Operation *each = is_operation(state, cases[n]) ? (Operation *)cases[n] : NULL;
        bool good = each != NULL && each->base.phase == FRESH &&
                    (each->base.kind == RECV || each->base.kind == SEND || each->base.kind == DONE);
        if (!good)
            refused = refuse(state, n, cases[n]);
        if (each != NULL && each->base.phase == FRESH)
            each->base.phase = SPENT;
    }
    return refused;
}

/* Read the keywords that follow the cases. */
static int
read_names(PyObject *const *args, PyObject *names, PyObject **timeout, PyObject **priority)
{
    Py_ssize_t count = names != NULL ? PyTuple_GET_SIZE(names) : 0;
    for (Py_ssize_t n = 0; n < count; n++) {
        PyObject *name = PyTuple_GET_ITEM(names, n);
        if (timeout != NULL && PyUnicode_CompareWithASCIIString(name, "timeout") == 0)
            *timeout = args[n];
        else if (PyUnicode_CompareWithASCIIString(name, "priority") == 0)
            *priority = args[n];
        else {
            PyErr_Format(PyExc_TypeError, "select() got an unexpected keyword argument %R", name);
            return -1;
        }
    }
    return 0;
}

/* A new select: with no case yet and nothing to await. */
static Select *
select_alloc(State *state)
{
    Select *self;
    if (state->free_select_count == 0) {
        self = (Select *)state->Select->tp_alloc(state->Select, 0);
        if (self == NULL)
            return NULL;
        self->base.state = state;
    }
    else {
        self = state->free_selects[--state->free_select_count];
        self->base.claim = UNCLAIMED;
    }
    self->base.phase = SPENT;
    self->timing = NO_TIMEOUT;
    self->cases = self->few;
    self->count = 0;
    return self;
}

static Select *
select_new(State *state, PyObject *const *cases, Py_ssize_t count, PyObject *priority)
{
    int first = Py_IsFalse(priority) ? 0 : PyObject_IsTrue(priority);
    Select *self = first < 0 ? NULL : select_alloc(state);
    if (self == NULL)
        return NULL;
    self->priority = first;
    if (count > FEW_CASES) {
        self->cases = PyMem_New(Operation *, count);
        if (self->cases == NULL) {
            self->cases = self->few;
            Py_DECREF(self);
            PyErr_NoMemory();
            return NULL;
        }
    }
    for (; self->count < count; self->count++) {
        PyObject *each = cases[self->count];
        self->cases[self->count] = Py_IsNone(each) ? NULL : (Operation *)Py_NewRef(each);
    }
    return self;
}

static int
set_timeout(Select *self, PyObject *given)
{
    if (Py_IsNone(given))
        return 0;
    PyObject *timeout = PyObject_CallOneArg(self->base.state->check_timeout, given);
    if (timeout == NULL)
        return -1;
    if (!Py_IsNone(timeout)) {
        self->timeout = PyFloat_AsDouble(timeout);
        self->timing = TIMEOUT;
    }
    Py_DECREF(timeout);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *
select_call(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *timeout = Py_None, *priority = Py_False;
    int failed = read_names(args + count, names, &timeout, &priority);
    if (spend(PyModule_GetState(module), args, count) < 0 || failed < 0)
        return NULL;
    Select *self = select_new(PyModule_GetState(module), args, count, priority);
    if (self == NULL || set_timeout(self, timeout) < 0) {
        Py_XDECREF(self);
        return NULL;
    }
    bool something = self->timing == TIMEOUT;
    for (Py_ssize_t n = 0; n < count; n++)
        something |= !Py_IsNone(args[n]);
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
    PyObject *priority = Py_False, *pair = NULL;
    bool closed = false;
    int failed = read_names(args + count, names, NULL, &priority);
    if (spend(state, args, count) < 0 || failed < 0)
        return NULL;
    Select *self = select_new(state, args, count, priority);
    if (self == NULL)
        return NULL;
    Py_ssize_t index = attempt_or_park(self, false, &closed);
    if (index >= 0)
        pair = index_and_value(self, index, closed);
    else if (index == -1)
        PyErr_SetString(state->WouldBlock, "no case of select is ready");
    Py_DECREF(self);
    return pair;
}

/* --- the type ---------------------------------------------------------------------------------- */

static int
select_traverse(Select *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
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

static PyMethodDef select_methods[] = {
    {"throw", (PyCFunction)(void (*)(void))select_throw, METH_FASTCALL, NULL},
    {"close", (PyCFunction)select_close, METH_NOARGS, NULL},
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
    {Py_tp_methods, select_methods},
    {Py_tp_getset, select_getset},
    {0, NULL},
};

static PyType_Spec select_spec = {
    .name = "tailrace._core.native.Select",
    .basicsize = sizeof(Select),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = select_slots,
};
