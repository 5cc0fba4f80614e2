/* The module: its state, its types, and what it takes from asyncio and from the Python parts. */
#include "native.h"

/* --- the dice of select ------------------------------------------------------------------------ */

static void
free_dice(PyObject *capsule)
{
    PyMem_Free(PyCapsule_GetPointer(capsule, NULL));
}

/* This thread's dice, kept where its thread state is. */
static uint64_t *
dice_of_thread(State *state)
{
    uint64_t thread = PyThreadState_GetID(PyThreadState_Get());
    if (state->dice != NULL && state->dice_thread == thread)
        return state->dice;
    PyObject *all = PyThreadState_GetDict();
    PyObject *capsule = all != NULL ? PyDict_GetItemWithError(all, state->dice_key) : NULL;
    if (capsule == NULL) {
        uint64_t *dice = PyErr_Occurred() || all == NULL ? NULL : PyMem_New(uint64_t, 1);
        capsule = dice != NULL ? PyCapsule_New(dice, NULL, free_dice) : NULL;
        if (capsule == NULL || PyDict_SetItem(all, state->dice_key, capsule) < 0) {
            Py_XDECREF(capsule);
            return NULL;
        }
        Py_DECREF(capsule);
        PyObject *random = PyObject_CallNoArgs(state->random_bits);
        *dice = random != NULL ? PyLong_AsUnsignedLongLongMask(random) : 0;
        Py_XDECREF(random);
        if (PyErr_Occurred())
            return NULL;
    }
    state->dice = PyCapsule_GetPointer(capsule, NULL);
    state->dice_thread = thread;
    return state->dice;
}

/* A random whole number in [0, n): Knuth's 64-bit LCG, its high half scaled; -1 for an error. */
static int
dice_below(State *state, int n)
{
    uint64_t *dice = dice_of_thread(state);
    if (dice == NULL)
        return -1;
    *dice = *dice * 6364136223846793005u + 1442695040888963407u;
    return (int)(((*dice >> 32) * (uint64_t)n) >> 32);
}

static PyObject *
module_seed(PyObject *module, PyObject *number)
{
    State *state = PyModule_GetState(module);
    uint64_t start = PyLong_AsUnsignedLongLongMask(number);
    uint64_t *dice = PyErr_Occurred() ? NULL : dice_of_thread(state);
    if (dice == NULL)
        return NULL;
    *dice = start;
    state->budget = state->full_budget;
    Py_RETURN_NONE;
}

/* --- functions --------------------------------------------------------------------------------- */

/* How many thread actors there are that were cancelled: as long as there are none, a blocking
 * operation need not ask whether it is in one. */
static PyObject *
count_cancelled(PyObject *module, PyObject *change)
{
    State *state = PyModule_GetState(module);
    Py_ssize_t by = PyLong_AsSsize_t(change);
    if (by == -1 && PyErr_Occurred())
        return NULL;
    state->cancelled_threads += by;
    Py_RETURN_NONE;
}

/* --- what it takes from others ----------------------------------------------------------------- */

typedef struct {
    const char *name;
    size_t offset;
} Slot;

#define SLOT(name) {#name, offsetof(State, name)}

static PyObject **
slot_of(State *state, const Slot *slot)
{
    return (PyObject **)((char *)state + slot->offset);
}

static const Slot python_parts[] = {
    SLOT(Closed),      SLOT(WouldBlock),  SLOT(check_capacity), SLOT(check_overflow),
    SLOT(check_timeout), SLOT(label),     SLOT(rearmed),        SLOT(block),
    SLOT(warn_unused), SLOT(warn_lost), SLOT(resume_then), SLOT(random_bits), SLOT(monotonic),      SLOT(scheduled_tasks),
    SLOT(get_running_loop), SLOT(get_event_loop), SLOT(iscoroutine), SLOT(CancelledError),
    SLOT(current_tasks), SLOT(swap_current_task), SLOT(add_awaited_by), SLOT(discard_awaited_by),
    SLOT(loop_time),
};

static const struct {
    Slot slot;
    const char *text;
} strings[] = {
    {SLOT(str_result), "result"},       {SLOT(str_get_loop), "get_loop"},
    {SLOT(str_loop), "_loop"},          {SLOT(str_blocking), "_asyncio_future_blocking"},
    {SLOT(str_cancel), "cancel"},       {SLOT(str_add_done_callback), "add_done_callback"},
    {SLOT(str_throw), "throw"},         {SLOT(str_release), "release"},
    {SLOT(str_ready), "_ready"},        {SLOT(str_watch), "_watch"},
    {SLOT(str_withdraw), "_withdraw"},  {SLOT(str_outcome), "_finish"},
    {SLOT(str_overflow), "overflow"},   {SLOT(str_add), "add"},
    {SLOT(str_data), "data"},           {SLOT(str_remove), "_remove"},
    {SLOT(str_pending_removals), "_pending_removals"}, {SLOT(str_claim), "_wake"},
    {SLOT(str_discarded), "__discarded__"},
    {SLOT(dice_key), "tailrace.dice"},
};

static const struct {
    Slot slot;
    const char *name;
} future_methods[] = {
    {SLOT(future_cancel), "cancel"},
    {SLOT(future_set_result), "set_result"},
    {SLOT(future_set_exception), "set_exception"},
};

/* Whether a future, one with a callback, begins as FutureInside says. */
static bool
is_as_known(PyObject *future, PyObject *loop, PyObject *callback, PyObject *context)
{
    FutureInside *inside = (FutureInside *)future;
    return inside->loop == loop && inside->callback == callback && inside->context == context;
}

/* know_future(future, loop, callback, context): the parts of one that is pending. */
static PyObject *
know_future(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    State *state = PyModule_GetState(module);
    state->future_is_known = count == 4 && PyObject_TypeCheck(args[0], state->Future) &&
                             is_as_known(args[0], args[1], args[2], args[3]);
    return PyBool_FromLong(state->future_is_known);
}

/* bind(parts): take what is written in Python or found by Python, by name; None for none. */
static PyObject *
module_bind(PyObject *module, PyObject *parts)
{
    State *state = PyModule_GetState(module);
    for (size_t n = 0; n < Py_ARRAY_LENGTH(python_parts); n++) {
        PyObject *part = PyMapping_GetItemString(parts, python_parts[n].name);
        if (part == NULL)
            return NULL;
        if (Py_IsNone(part))
            Py_CLEAR(part);
        Py_XSETREF(*slot_of(state, &python_parts[n]), part);
    }
    Py_RETURN_NONE;
}

static PyObject *
nothing(PyObject *unused, PyObject *none)
{
    Py_RETURN_NONE;
}

static PyMethodDef no_result = {"result", nothing, METH_NOARGS, NULL};

static int
take_strings(State *state)
{
    for (size_t n = 0; n < Py_ARRAY_LENGTH(strings); n++) {
        PyObject **slot = slot_of(state, &strings[n].slot);
        if ((*slot = PyUnicode_InternFromString(strings[n].text)) == NULL)
            return -1;
    }
    state->empty_tuple = PyTuple_New(0);
    state->msg_names = Py_BuildValue("(s)", "msg");
    state->context_names = Py_BuildValue("(s)", "context");
    state->no_result = PyCFunction_New(&no_result, NULL);
    return state->empty_tuple && state->msg_names && state->context_names && state->no_result ? 0 : -1;
}

static int
take_future(State *state)
{
    PyObject *asyncio = PyImport_ImportModule("_asyncio");
    state->Future = asyncio != NULL ? (PyTypeObject *)PyObject_GetAttrString(asyncio, "Future") : NULL;
    Py_XDECREF(asyncio);
    if (state->Future == NULL)
        return -1;
    int known = inside_is_as_known();
    if (known == 0 || state->Future->tp_basicsize > FUTURE_SIZE)
        PyErr_SetString(PyExc_ImportError, "the native core was built for another Python than this");
    if (PyErr_Occurred())
        return -1;
    for (size_t n = 0; n < Py_ARRAY_LENGTH(future_methods); n++) {
        PyObject *method = PyObject_GetAttrString((PyObject *)state->Future, future_methods[n].name);
        if (method == NULL)
            return -1;
        *slot_of(state, &future_methods[n].slot) = method;
    }
    return 0;
}

/* --- types ------------------------------------------------------------------------------------- */

static int
add_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec, PyObject *bases)
{
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, bases);
    return *slot != NULL ? PyModule_AddType(module, *slot) : -1;
}

static int
add_types(PyObject *module, State *state)
{
    if (add_type(module, &state->Sleeper, &sleeper_spec, NULL) < 0 ||
        add_type(module, &state->Scheduler, &scheduler_spec, NULL) < 0 ||
        add_type(module, &state->Channel, &channel_spec, NULL) < 0 ||
        add_type(module, &state->End, &end_spec, NULL) < 0)
        return -1;
    PyObject *sleeper = (PyObject *)state->Sleeper, *end = (PyObject *)state->End;
    if (add_type(module, &state->Operation, &operation_spec, sleeper) < 0 ||
        add_type(module, &state->Select, &select_spec, sleeper) < 0 ||
        add_type(module, &state->SendMany, &send_many_spec, (PyObject *)state->Operation) < 0 ||
        add_type(module, &state->RecvMany, &recv_many_spec, (PyObject *)state->Operation) < 0 ||
        add_type(module, &state->SendingEnd, &sending_end_spec, end) < 0 ||
        add_type(module, &state->ReceivingEnd, &receiving_end_spec, end) < 0 ||
        add_type(module, &state->BlockingSender, &blocking_sender_spec, end) < 0 ||
        add_type(module, &state->BlockingReceiver, &blocking_receiver_spec, end) < 0 ||
        add_type(module, &state->Actor, &actor_spec, (PyObject *)state->Future) < 0)
        return -1;
    PyObject *bases = PyTuple_Pack(2, state->BlockingSender, state->BlockingReceiver);
    int failed = bases != NULL ? add_type(module, &state->Blocking, &blocking_spec, bases) : -1;
    Py_XDECREF(bases);
    return failed;
}

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->full_budget = state->budget = OPERATIONS_BUDGET;
    state->schedulers = PyDict_New();
    state->zero = PyLong_FromLong(0);
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030F0000
    state->stop_iteration = PyObject_CallNoArgs(PyExc_StopIteration);
    if (state->stop_iteration == NULL)
        return -1;
#endif
    if (state->schedulers == NULL || state->zero == NULL || take_strings(state) < 0 ||
        take_future(state) < 0 || add_types(module, state) < 0)
        return -1;
    return PyModule_AddIntConstant(module, "BUDGET", OPERATIONS_BUDGET);
}

/* Every reference that the state holds, in one place. */
static int
each_reference(State *state, int (*visit)(PyObject **slot, void *arg), void *arg)
{
    PyObject **types[] = {
        (PyObject **)&state->Channel,        (PyObject **)&state->Sleeper,
        (PyObject **)&state->Operation,      (PyObject **)&state->SendMany,
        (PyObject **)&state->RecvMany,       (PyObject **)&state->Select,
        (PyObject **)&state->Scheduler,      (PyObject **)&state->Actor,
        (PyObject **)&state->End,            (PyObject **)&state->SendingEnd,
        (PyObject **)&state->ReceivingEnd,   (PyObject **)&state->BlockingSender,
        (PyObject **)&state->BlockingReceiver, (PyObject **)&state->Blocking,
        (PyObject **)&state->Future,         &state->schedulers,
        &state->stop_iteration,              &state->zero,
        &state->empty_tuple,                 &state->msg_names,
        &state->context_names,               &state->no_result,
    };
    int failed = 0;
    for (size_t n = 0; n < Py_ARRAY_LENGTH(types) && !failed; n++)
        failed = visit(types[n], arg);
    for (size_t n = 0; n < Py_ARRAY_LENGTH(python_parts) && !failed; n++)
        failed = visit(slot_of(state, &python_parts[n]), arg);
    for (size_t n = 0; n < Py_ARRAY_LENGTH(strings) && !failed; n++)
        failed = visit(slot_of(state, &strings[n].slot), arg);
    for (size_t n = 0; n < Py_ARRAY_LENGTH(future_methods) && !failed; n++)
        failed = visit(slot_of(state, &future_methods[n].slot), arg);
    return failed;
}

typedef struct {
    visitproc visit;
    void *arg;
} Visit;

static int
visit_reference(PyObject **slot, void *arg)
{
    Visit *how = arg;
    return *slot != NULL ? how->visit(*slot, how->arg) : 0;
}

static int
clear_reference(PyObject **slot, void *arg)
{
    Py_CLEAR(*slot);
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    Visit how = {visit, arg};
    return each_reference(PyModule_GetState(module), visit_reference, &how);
}

static void
free_kept(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_SET_REFCNT(object, 0);
    type->tp_free(object);
    Py_DECREF(type);
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    while (state->free_count > 0)
        free_kept((PyObject *)state->free[--state->free_count]);
    while (state->free_select_count > 0)
        free_kept((PyObject *)state->free_selects[--state->free_select_count]);
    return each_reference(state, clear_reference, NULL);
}

static void
module_free(void *module)
{
    module_clear(module);
}

static PyMethodDef module_functions[] = {
    {"select", (PyCFunction)(void (*)(void))select_call, METH_FASTCALL | METH_KEYWORDS, select_doc},
    {"select_nowait", (PyCFunction)(void (*)(void))select_nowait_call,
     METH_FASTCALL | METH_KEYWORDS, select_nowait_doc},
    {"spawn", (PyCFunction)(void (*)(void))spawn, METH_FASTCALL, spawn_doc},
    {"parked_on", parked_on, METH_O, parked_on_doc},
    {"when_sent", (PyCFunction)(void (*)(void))when_sent, METH_FASTCALL, when_sent_doc},
    {"seed", module_seed, METH_O, seed_doc},
    {"count_cancelled", count_cancelled, METH_O, NULL},
    {"bind", module_bind, METH_O, NULL},
    {"know_future", (PyCFunction)(void (*)(void))know_future, METH_FASTCALL, NULL},
    {NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tailrace._core.native._engine",
    .m_doc = "The native core's engine; `tailrace._core` is where to find it.",
    .m_size = sizeof(State),
    .m_methods = module_functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__engine(void)
{
    return PyModuleDef_Init(&native_module);
}
