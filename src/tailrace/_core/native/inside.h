/* The current task of a loop, stored without a call. To 3.13 asyncio's current tasks are in a
 * dictionary, whose layout is known, and checked at import. With `PyDict_SetItem` an unbuffered hop
 * takes 12 % longer. From 3.14 on the public function is as fast.
 */
#ifndef TAILRACE_INSIDE_H
#define TAILRACE_INSIDE_H

#if PY_VERSION_HEX < 0x030E0000

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

/* As PyDict_SetItem, for a key whose entry mostly is where it was before: at index `place`. */
static inline int set_in_place(PyObject *dict, PyObject *key, PyObject *value, Py_ssize_t *place) {
    TableInside *table = (TableInside *)((PyDictObject *)dict)->ma_keys;
    if (UNLIKELY(table->kind != KEYS_OF_ANY_KIND)) /* while it is empty */
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

/* Whether the layout is as known: 1, 0, or -1 with an error set. */
static int inside_is_as_known(void) {
    int good = -1;
    Py_ssize_t place = 3;
    PyObject *dict = PyDict_New(), *key = (PyObject *)&PyBaseObject_Type;
    if (dict != NULL && PyDict_SetItem(dict, key, Py_None) == 0 &&
        set_in_place(dict, key, Py_True, &place) == 0)
        good = place == 0 && PyDict_GetItem(dict, key) == Py_True && PyDict_GET_SIZE(dict) == 1;
    Py_XDECREF(dict);
    return good;
}

#else

#define set_in_place(dict, key, value, place) PyDict_SetItem(dict, key, value)
#define inside_is_as_known() 1

#endif
#endif
