/* The module: its state, its types, and what it takes from asyncio and from the Python parts. */
#include "native.h"

/* seed(n): start the random numbers of select at `n`, and a new budget. */
static PyObject *module_seed(PyObject *module, PyObject *number) {
    State *state = PyModule_GetState(module);
    uint64_t start = PyLong_AsUnsignedLongLongMask(number);
    if (PyErr_Occurred())
        return NULL;
    state->rng = start;
    state->budget = OPERATIONS_BUDGET;
    Py_RETURN_NONE;
}

/* --- parts from Python -------------------------------------------------------------------------- */

/* bind(parts): take the PARTS, a dict by name; None stands for a part that this version lacks. */
static PyObject *module_bind(PyObject *module, PyObject *parts) {
    State *state = PyModule_GetState(module);
#define TAKE(name)                                                                                  \
    Py_XSETREF(state->name, PyMapping_GetItemString(parts, #name));                                 \
    if (state->name == NULL)                                                                        \
        return NULL;                                                                                \
    if (Py_IsNone(state->name))                                                                     \
        Py_CLEAR(state->name);
    PARTS(TAKE)
    Py_RETURN_NONE;
}

static bool take_constants(State *state) {
#define INTERN(name)                                                                                \
    if ((state->str_##name = PyUnicode_InternFromString(#name)) == NULL)                            \
        return false;
    NAMES(INTERN)
    state->empty_tuple = PyTuple_New(0);
    state->future_arguments = PyDict_New();
    state->msg_names = PyTuple_Pack(1, state->str_msg);
    state->context_names = PyTuple_Pack(1, state->str_context);
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030F0000
    state->stop_iteration = PyObject_CallNoArgs(PyExc_StopIteration);
#endif
    return !PyErr_Occurred();
}

static bool take_future(State *state, PyObject *future) {
    int known = future != NULL ? inside_is_as_known() : -1;
    state->Future = (PyTypeObject *)future;
    if (known == 0 || (known == 1 && state->Future->tp_basicsize > FUTURE_SIZE))
        PyErr_SetString(PyExc_ImportError, "the native core was built for another Python than this");
    return !PyErr_Occurred();
}

/* Make a type of a spec and one or two bases, whose references are taken; NULL for no second. */
static bool add_type(PyObject *module, PyTypeObject **type, PyType_Spec *spec, PyObject *first,
                     PyObject *second) {
    PyObject *bases = PyErr_Occurred() ? NULL
                      : second == NULL ? PyTuple_Pack(1, first)
                                       : PyTuple_Pack(2, first, second);
    Py_XDECREF(first);
    Py_XDECREF(second);
    if (bases != NULL)
        *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, bases);
    Py_XDECREF(bases);
    return *type != NULL && PyModule_AddType(module, *type) == 0;
}

/* Base classes that are written in Python are in `bases.py`. */
static bool add_types(PyObject *module, State *state, PyObject *bases) {
#define BASE(name) PyObject_GetAttrString(bases, #name)
#define TYPE(name) Py_XNewRef(state->name)
    return take_future(state, BASE(Future)) &&
           add_type(module, &state->Waiter, &waiter_spec, BASE(WaiterBase), NULL) &&
           add_type(module, &state->Scheduler, &scheduler_spec, Py_NewRef(&PyBaseObject_Type), NULL) &&
           add_type(module, &state->Turn, &turn_spec, BASE(TurnBase), NULL) &&
           add_type(module, &state->Channel, &channel_spec, BASE(ChannelBase), NULL) &&
           add_type(module, &state->Operation, &operation_spec, TYPE(Waiter), BASE(OperationBase)) &&
           add_type(module, &state->Select, &select_spec, TYPE(Waiter), BASE(SelectBase)) &&
           add_type(module, &state->SendMany, &send_many_spec, BASE(SendManyBase), TYPE(Operation)) &&
           add_type(module, &state->RecvMany, &recv_many_spec, TYPE(Operation), NULL) &&
           add_type(module, &state->Actor, &actor_spec, BASE(ActorBase), TYPE(Future));
}

static int module_exec(PyObject *module) {
    State *state = PyModule_GetState(module);
    state->budget = OPERATIONS_BUDGET;
    PyObject *bases = PyImport_ImportModule("tailrace._core.native.bases");
    bool good = bases != NULL && take_constants(state) && add_types(module, state, bases);
    Py_XDECREF(bases);
    return good && PyModule_AddIntConstant(module, "BUDGET", OPERATIONS_BUDGET) == 0 &&
                   PyModule_AddIntConstant(module, "TURN_STEPS", TURN_STEPS) == 0 &&
                   PyModule_AddIntConstant(module, "YIELD_STEPS", YIELD_STEPS) == 0
               ? 0
               : -1;
}

/* --- the module --------------------------------------------------------------------------------- */

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    State *state = PyModule_GetState(module);
    VISIT_ALL(state->Channel, state->stop_iteration);
    return 0;
}

static int module_clear(PyObject *module) {
    State *state = PyModule_GetState(module);
    for (FreeList *list = state->free; list < state->free + Py_ARRAY_LENGTH(state->free); list++)
        while (list->count > 0) {
            Operation *kept = list->operations[--list->count];
            kept->base.not_reusable = FOR_GOOD;
            Py_DECREF(kept);
        }
    CLEAR_ALL(state->Channel, state->stop_iteration);
    return 0;
}

static void module_free(void *module) {
    module_clear(module);
}

/* The same words as in `_core/python`. */
#define select_doc "select($module, /, *cases, timeout=None, priority=False)\n--\n\n" \
"Wait until one of `cases` can happen, do that one and no other: ``(index, value)``.\n\n" \
"A case is an operation (``channel.recv()``, ``channel.send(value)``, ``done(future)``) or\n" \
"None, which never happens (Go's nil channel). Among several that are ready the choice is\n" \
"uniformly random; with `priority` the first listed wins. After `timeout` seconds the answer\n" \
"is ``(None, None)``.\n\n" \
"A receive from a closed, drained channel is ready, with the `Closed` instance as its value;\n" \
"if it was closed with a cause, that `Closed` is raised. A send on a closed channel raises\n" \
"`Closed` when it is the case chosen.\n\n" \
"TypeError for what is not an operation; ValueError when nothing could ever happen.\n" \
"Cancelled: no case happened. A send that was taken in the same instant makes the await\n" \
"return, and the cancellation arrives at the task's next one."

#define select_nowait_doc "select_nowait($module, /, *cases, priority=False)\n--\n\n" \
"Do one of `cases` if one can happen at once, else raise `WouldBlock` (Go's ``default``).\n\n" \
"Cases, choice and values are as for `select`."

#define spawn_doc "spawn($module, coroutines, name, first, ended, /)\n--\n\n" \
"Start an actor for each of a list of coroutines: a dict of them.\n\n" \
"They are called ``name#first`` and so on; with `first` 0 there is one, called `name`. `ended`\n" \
"is called with each that has ended, in an empty context and as part of no task."

#define seed_doc "seed($module, n, /)\n--\n\n" \
"Start the random numbers of select at `n`, and a new budget, for runs that repeat."

static PyMethodDef module_functions[] = {
    {"select", FAST_NAMED(select_call), select_doc},
    {"select_nowait", FAST_NAMED(select_nowait_call), select_nowait_doc},
    {"spawn", spawn, METH_VARARGS, spawn_doc},
    {"seed", ONE(module_seed), seed_doc},
    {"bind", ONE(module_bind), NULL},
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

PyMODINIT_FUNC PyInit__engine(void) {
    return PyModuleDef_Init(&native_module);
}
