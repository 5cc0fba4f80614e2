/* What every step does to CPython's own state without a call: to 3.13, whose layout of it is known,
 * and checked at import. Two calls and a lookup cost a tenth of a hop. From 3.14 on the public
 * functions do the same.
 */
#ifndef TAILRACE_INSIDE_H
#define TAILRACE_INSIDE_H

#if PY_VERSION_HEX < 0x030E0000

typedef struct {
    PyObject_HEAD
    PyObject *previous, *variables, *weakrefs;
    int entered;
} ContextInside;

/* The table of a dictionary, behind whose `indices` its entries stand. */
typedef struct {
    Py_ssize_t references;
    uint8_t log2_size, log2_index_bytes, kind;
    uint32_t version;
    Py_ssize_t usable, count;
    int8_t indices[];
} TableInside;

typedef struct {
    Py_hash_t hash;
    PyObject *key, *value;
} EntryInside;

enum { KEYS_OF_ANY_KIND = 0 };

/* As PyContext_Enter, in this thread. */
static inline int
enter_context(PyThreadState *thread, PyObject *object)
{
    ContextInside *context = (ContextInside *)object;
    if (UNLIKELY(context->entered))
        return PyContext_Enter(object); /* which says why not */
    context->previous = thread->context;
    context->entered = 1;
    thread->context = Py_NewRef(object);
    thread->context_ver++;
    return 0;
}

/* As PyContext_Exit. */
static inline void
exit_context(PyThreadState *thread, PyObject *object)
{
    ContextInside *context = (ContextInside *)object;
    if (UNLIKELY(thread->context != object)) {
        PyContext_Exit(object);
        return;
    }
    thread->context = context->previous;
    context->previous = NULL;
    context->entered = 0;
    thread->context_ver++;
    Py_DECREF(object);
}

/* As PyDict_SetItem, for a key that mostly stands where it stood before: in `place`. */
static inline int
set_in_place(PyObject *dict, PyObject *key, PyObject *value, Py_ssize_t *place)
{
    TableInside *table = (TableInside *)((PyDictObject *)dict)->ma_keys;
    if (UNLIKELY(table->kind != KEYS_OF_ANY_KIND)) /* as it is while it is empty */
        return PyDict_SetItem(dict, key, value);
    EntryInside *entries = (EntryInside *)(table->indices + ((size_t)1 << table->log2_index_bytes));
    if (UNLIKELY(*place >= table->count || entries[*place].key != key)) {
        *place = 0;
        while (*place < table->count && entries[*place].key != key)
            ++*place;
    }
    if (UNLIKELY(*place == table->count || entries[*place].value == NULL))
        return PyDict_SetItem(dict, key, value);
    Py_SETREF(entries[*place].value, Py_NewRef(value));
    return 0;
}

/* Whether all that is as it is thought to be: 1, 0, or -1 with an error set. */
static int
inside_is_as_known(void)
{
    int good = -1;
    Py_ssize_t place = 3;
    PyObject *dict = PyDict_New(), *context = PyContext_New(), *before;
    PyObject *key = (PyObject *)&PyBaseObject_Type;
    if (dict != NULL && context != NULL && PyDict_SetItem(dict, key, Py_None) == 0 &&
        set_in_place(dict, key, Py_True, &place) == 0) {
        PyThreadState *thread = PyThreadState_Get();
        before = thread->context;
        good = place == 0 && PyDict_GetItem(dict, key) == Py_True && PyDict_GET_SIZE(dict) == 1 &&
               PyContext_Enter(context) == 0;
        if (good == 1) {
            ContextInside *inside = (ContextInside *)context;
            good = inside->entered == 1 && inside->previous == before;
            PyContext_Exit(context);
            good &= inside->entered == 0 && inside->previous == NULL;
        }
    }
    Py_XDECREF(dict);
    Py_XDECREF(context);
    return good;
}

#else

#define enter_context(thread, context) ((void)(thread), PyContext_Enter(context))
#define exit_context(thread, context) ((void)(thread), (void)PyContext_Exit(context))
#define set_in_place(dict, key, value, place) PyDict_SetItem(dict, key, value)
#define inside_is_as_known() 1

#endif
#endif
