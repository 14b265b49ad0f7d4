/* The Python module cfsrepo.formats._blockhash: see _blockhash.pyi.
 *
 * Buffers stay exported and descriptors are only borrowed while the interpreter's lock is released;
 * it is taken back now and then so that a signal ends a long computation.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <Python.h>

#include "tree.h"

#define SMALL (16 * 1024)        /* bytes that are hashed in less time than the lock takes */
#define STEP (1024 * 1024)       /* bytes between looks at the clock */
#define READ_SIZE (256 * 1024)   /* bytes read at a time: they stay in the processor's cache */
#define PATIENCE_NS 100000000    /* between looks for signals */
#define GATHERED 64              /* small buffers hashed side by side */

/* ---- Arguments ---- */

struct choice {
    const struct algorithm *algorithm;
    const struct engine *engine;
};

/* The algorithm, and the engine by name; without a name the fastest that runs here. */
static int choose(PyObject *number, PyObject *name, struct choice *choice) {
    const long kernel_id = PyLong_AsLong(number);
    if (kernel_id == -1 && PyErr_Occurred()) return -1;
    choice->algorithm = find_algorithm(kernel_id);
    if (choice->algorithm == NULL) {
        PyErr_Format(PyExc_ValueError, "unknown fs-verity hash algorithm %ld", kernel_id);
        return -1;
    }
    const char *wanted = NULL;
    if (name != NULL && name != Py_None) {
        wanted = PyUnicode_AsUTF8AndSize(name, NULL);
        if (wanted == NULL) return -1;
    }
    for (size_t i = 0; i < choice->algorithm->engine_count; i++) {
        const struct engine *engine = &choice->algorithm->engines[i];
        if ((wanted == NULL || strcmp(wanted, engine->name) == 0) && engine->usable()) {
            choice->engine = engine;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "no engine %s for this algorithm here", wanted);
    return -1;
}

/* The algorithm and the engine are the arguments at `first` and, optional, the next. */
static int parse(PyObject *const *args, Py_ssize_t count, Py_ssize_t first,
                 struct choice *choice) {
    if (count != first + 1 && count != first + 2) {
        PyErr_Format(PyExc_TypeError, "%zd or %zd arguments, please, not %zd", first + 1,
                     first + 2, count);
        return -1;
    }
    return choose(args[first], count == first + 2 ? args[first + 1] : NULL, choice);
}

static int parse_fd(PyObject *number, int *fd) {
    const long value = PyLong_AsLong(number);
    if (value == -1 && PyErr_Occurred()) return -1;
    if (value < 0 || value > INT_MAX) {
        PyErr_SetString(PyExc_ValueError, "no file descriptor");
        return -1;
    }
    *fd = (int)value;
    return 0;
}

/* Where in a file, and how many bytes. */
static int parse_range(PyObject *const *args, off_t *offset, size_t *length) {
    const long long start = PyLong_AsLongLong(args[0]);
    if (start == -1 && PyErr_Occurred()) return -1;
    const Py_ssize_t size = PyLong_AsSsize_t(args[1]);
    if (size == -1 && PyErr_Occurred()) return -1;
    if (start < 0 || size < 0 || start > LLONG_MAX - size || size > PY_SSIZE_T_MAX - BLOCK_SIZE) {
        PyErr_SetString(PyExc_ValueError, "no range of a file");
        return -1;
    }
    *offset = (off_t)start;
    *length = (size_t)size;
    return 0;
}

static size_t hashes_size(const struct choice *choice, size_t data) {
    return (data + BLOCK_SIZE - 1) / BLOCK_SIZE * choice->algorithm->digest_size;
}

/* ---- Long work ---- */

/* Work without the interpreter's lock. */
struct work {
    PyThreadState *thread; /* NULL: the lock is held */
    struct timespec looked; /* for signals */
};

static void begin(struct work *work, int release) {
    clock_gettime(CLOCK_MONOTONIC, &work->looked);
    work->thread = release ? PyEval_SaveThread() : NULL;
}

static void end(struct work *work) {
    if (work->thread != NULL) PyEval_RestoreThread(work->thread);
    work->thread = NULL;
}

/* Look for signals where it is time, or `now`. -1: a handler raised an exception. */
static int look(struct work *work, int now) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    const long long passed = (time.tv_sec - work->looked.tv_sec) * 1000000000LL +
                             (time.tv_nsec - work->looked.tv_nsec);
    if (!now && passed < PATIENCE_NS) return 0;
    const int released = work->thread != NULL;
    end(work);
    const int result = PyErr_CheckSignals();
    if (released) work->thread = PyEval_SaveThread();
    work->looked = time;
    return result;
}

/* With the lock held: the exception of what failed without it. */
enum outcome { FINE, RAISED, NO_MEMORY, FAILED_READ };

static PyObject *raised(enum outcome outcome, int error) {
    if (outcome == NO_MEMORY) return PyErr_NoMemory();
    if (outcome == FAILED_READ) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return NULL;
}

/* Read `size` bytes at `offset`, fewer only at the end of the file. */
static enum outcome read_all(struct work *work, int fd, uint8_t *data, size_t size, off_t offset,
                             size_t *have) {
    *have = 0;
    while (*have < size) {
        const ssize_t count = pread(fd, data + *have, size - *have, offset + (off_t)*have);
        if (count == 0) break;
        if (count > 0)
            *have += (size_t)count;
        else if (errno != EINTR)
            return FAILED_READ;
        else if (look(work, 1) < 0)
            return RAISED;
    }
    return FINE;
}

/* ---- Functions over buffers ---- */

static PyObject *blockhash_hash_blocks(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    struct choice choice;
    Py_buffer view;
    (void)module;
    if (parse(args, count, 1, &choice) < 0) return NULL;
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) return NULL;
    const size_t size = (size_t)view.len;
    PyObject *result =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)hashes_size(&choice, size));
    if (result != NULL) {
        uint8_t *const hashes = (uint8_t *)PyBytes_AsString(result);
        const uint8_t *const data = view.buf;
        int failed = 0;
        struct work work;
        begin(&work, size > SMALL);
        for (size_t at = 0; at < size && !failed; at += STEP) {
            hash_blocks(choice.engine, choice.algorithm->digest_size, data + at,
                        size - at < STEP ? size - at : STEP, hashes + hashes_size(&choice, at));
            if (size > STEP) failed = look(&work, 0) < 0;
        }
        end(&work);
        if (failed) Py_CLEAR(result);
    }
    PyBuffer_Release(&view);
    return result;
}

/* The digest of a file with this root hash. */
static void finish(const struct choice *choice, uint64_t size, const uint8_t *root,
                   uint8_t *digest) {
    uint8_t descriptor[DESCRIPTOR_SIZE];
    const uint8_t *const messages[1] = {descriptor};
    uint8_t *const digests[1] = {digest};
    make_descriptor(choice->algorithm, size, root, descriptor);
    hash_messages(choice->engine, 1, messages, DESCRIPTOR_SIZE, digests);
}

static PyObject *as_bytes(const struct choice *choice, const uint8_t *digest) {
    return PyBytes_FromStringAndSize((const char *)digest,
                                     (Py_ssize_t)choice->algorithm->digest_size);
}

static enum outcome digest_buffer(const struct choice *choice, const uint8_t *data, size_t size,
                                  uint8_t *digest) {
    struct tree tree;
    struct work work;
    uint8_t root[MAX_DIGEST_SIZE];
    enum outcome outcome = FINE;
    if (size > 0 && size <= BLOCK_SIZE) { /* most files */
        hash_blocks(choice->engine, choice->algorithm->digest_size, data, size, root);
        finish(choice, size, root, digest);
        return FINE;
    }
    tree_init(&tree, choice->algorithm, choice->engine);
    begin(&work, size > SMALL);
    for (size_t at = 0; at < size && outcome == FINE; at += STEP) {
        if (tree_add(&tree, data + at, size - at < STEP ? size - at : STEP) < 0)
            outcome = NO_MEMORY;
        else if (look(&work, 0) < 0)
            outcome = RAISED;
    }
    if (outcome == FINE && tree_root(&tree, root) < 0) outcome = NO_MEMORY;
    if (outcome == FINE) finish(choice, size, root, digest);
    tree_free(&tree);
    end(&work);
    return outcome;
}

static PyObject *blockhash_digest(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    struct choice choice;
    Py_buffer view;
    uint8_t digest[MAX_DIGEST_SIZE];
    (void)module;
    if (parse(args, count, 1, &choice) < 0) return NULL;
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) return NULL;
    const enum outcome outcome = digest_buffer(&choice, view.buf, (size_t)view.len, digest);
    PyBuffer_Release(&view);
    return outcome == FINE ? as_bytes(&choice, digest) : raised(outcome, 0);
}

/* The digests of up to GATHERED buffers of at most a block each: side by side. */
static void digest_small(const struct choice *choice, size_t count, const Py_buffer *views,
                         uint8_t (*blocks)[BLOCK_SIZE], uint8_t (*digests)[MAX_DIGEST_SIZE]) {
    const uint8_t *messages[GATHERED];
    uint8_t *results[GATHERED], roots[GATHERED][MAX_DIGEST_SIZE];
    size_t used = 0;
    memset(roots, 0, sizeof roots); /* of empty files */
    for (size_t i = 0; i < count; i++) {
        const size_t size = (size_t)views[i].len;
        if (size == 0) continue;
        messages[used] = views[i].buf;
        if (size < BLOCK_SIZE) {
            memcpy(blocks[i], views[i].buf, size);
            memset(blocks[i] + size, 0, BLOCK_SIZE - size);
            messages[used] = blocks[i];
        }
        results[used++] = roots[i];
    }
    if (used > 0) hash_messages(choice->engine, used, messages, BLOCK_SIZE, results);
    for (size_t i = 0; i < count; i++) {
        make_descriptor(choice->algorithm, (uint64_t)views[i].len, roots[i], blocks[i]);
        messages[i] = blocks[i];
        results[i] = digests[i];
    }
    hash_messages(choice->engine, count, messages, DESCRIPTOR_SIZE, results);
}

/* What digest_many keeps between the buffers: the small ones that wait for others. */
struct gathered {
    size_t count;
    Py_ssize_t places[GATHERED]; /* in the result */
    Py_buffer views[GATHERED];
    uint8_t blocks[GATHERED][BLOCK_SIZE];
    uint8_t digests[GATHERED][MAX_DIGEST_SIZE];
};

static void drop(struct gathered *gathered) {
    for (size_t i = 0; i < gathered->count; i++) PyBuffer_Release(&gathered->views[i]);
    gathered->count = 0;
}

static int flush(const struct choice *choice, struct gathered *gathered, PyObject *result) {
    if (gathered->count == 0) return 0;
    int failed = 0;
    struct work work;
    begin(&work, gathered->count * BLOCK_SIZE > SMALL);
    digest_small(choice, gathered->count, gathered->views, gathered->blocks, gathered->digests);
    end(&work);
    for (size_t i = 0; i < gathered->count && !failed; i++) {
        PyObject *digest = as_bytes(choice, gathered->digests[i]);
        failed = digest == NULL || PyList_SetItem(result, gathered->places[i], digest) < 0;
    }
    drop(gathered);
    return failed ? -1 : PyErr_CheckSignals();
}

static int digest_next(const struct choice *choice, PyObject *buffer, Py_ssize_t place,
                       struct gathered *gathered, PyObject *result) {
    Py_buffer *view = &gathered->views[gathered->count];
    if (PyObject_GetBuffer(buffer, view, PyBUF_SIMPLE) < 0) return -1;
    if (view->len <= BLOCK_SIZE) {
        gathered->places[gathered->count++] = place;
        return gathered->count < GATHERED ? 0 : flush(choice, gathered, result);
    }
    uint8_t digest[MAX_DIGEST_SIZE];
    const enum outcome outcome = digest_buffer(choice, view->buf, (size_t)view->len, digest);
    PyBuffer_Release(view);
    if (outcome != FINE) {
        raised(outcome, 0);
        return -1;
    }
    PyObject *bytes = as_bytes(choice, digest);
    return bytes == NULL ? -1 : PyList_SetItem(result, place, bytes);
}

static PyObject *blockhash_digest_many(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    struct choice choice;
    (void)module;
    if (parse(args, count, 1, &choice) < 0) return NULL;
    /* A tuple of our own: nobody can change it while the lock is released. */
    PyObject *buffers = PySequence_Tuple(args[0]);
    if (buffers == NULL) return NULL;
    const Py_ssize_t size = PyTuple_Size(buffers);
    PyObject *result = PyList_New(size);
    struct gathered *gathered = malloc(sizeof *gathered);
    int failed = result == NULL || gathered == NULL;
    if (gathered == NULL) PyErr_NoMemory();
    else gathered->count = 0;
    for (Py_ssize_t i = 0; i < size && !failed; i++)
        failed = digest_next(&choice, PyTuple_GetItem(buffers, i), i, gathered, result) < 0;
    if (!failed) failed = flush(&choice, gathered, result) < 0;
    if (gathered != NULL) drop(gathered);
    free(gathered);
    Py_DECREF(buffers);
    if (failed) Py_CLEAR(result);
    return result;
}

/* ---- Functions over files ---- */

static PyObject *blockhash_digest_fd(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    struct choice choice;
    struct tree tree;
    struct work work;
    int fd;
    uint8_t root[MAX_DIGEST_SIZE], digest[MAX_DIGEST_SIZE];
    size_t have = READ_SIZE;
    (void)module;
    if (parse(args, count, 1, &choice) < 0 || parse_fd(args[0], &fd) < 0) return NULL;
    uint8_t *const data = malloc(READ_SIZE);
    if (data == NULL) return PyErr_NoMemory();
    tree_init(&tree, choice.algorithm, choice.engine);
    enum outcome outcome = FINE;
    begin(&work, 1);
    while (outcome == FINE && have == READ_SIZE) {
        outcome = read_all(&work, fd, data, READ_SIZE, (off_t)tree.size, &have);
        if (outcome == FINE && tree_add(&tree, data, have) < 0) outcome = NO_MEMORY;
        if (outcome == FINE && look(&work, 0) < 0) outcome = RAISED;
    }
    const int error = errno;
    if (outcome == FINE && tree_root(&tree, root) < 0) outcome = NO_MEMORY;
    if (outcome == FINE) finish(&choice, tree.size, root, digest);
    tree_free(&tree);
    free(data);
    end(&work);
    return outcome == FINE ? as_bytes(&choice, digest) : raised(outcome, error);
}

/* Read a range of a file and hash its blocks. The data goes to `data`, or, where that is NULL,
 * through a buffer of our own. `have`: bytes there are. */
static enum outcome hash_range(const struct choice *choice, int fd, off_t offset, size_t length,
                               uint8_t *data, uint8_t *hashes, size_t *have) {
    struct work work;
    enum outcome outcome = FINE;
    size_t part = READ_SIZE;
    *have = 0;
    begin(&work, 1);
    uint8_t *const buffer = data == NULL ? malloc(READ_SIZE) : NULL;
    if (data == NULL && buffer == NULL) outcome = NO_MEMORY;
    while (outcome == FINE && *have < length && part == READ_SIZE) {
        uint8_t *const to = data == NULL ? buffer : data + *have;
        const size_t wanted = length - *have < READ_SIZE ? length - *have : READ_SIZE;
        outcome = read_all(&work, fd, to, wanted, offset + (off_t)*have, &part);
        if (outcome == FINE) {
            hash_blocks(choice->engine, choice->algorithm->digest_size, to, part,
                        hashes + hashes_size(choice, *have));
            *have += part;
            if (look(&work, 0) < 0) outcome = RAISED;
        }
    }
    const int error = errno;
    free(buffer);
    end(&work);
    if (outcome != FINE) raised(outcome, error);
    return outcome;
}

/* A bytes object whose content is still to be written. */
static PyObject *blank(size_t size) { return PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size); }

/* `*object` with its first `size` bytes only. */
static void cut(PyObject **object, size_t size) {
    if ((size_t)PyBytes_Size(*object) == size) return;
    PyObject *shorter = PyBytes_FromStringAndSize(PyBytes_AsString(*object), (Py_ssize_t)size);
    Py_DECREF(*object);
    *object = shorter;
}

static PyObject *blockhash_hash_fd(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    struct choice choice;
    int fd;
    off_t offset;
    size_t length, have;
    (void)module;
    if (parse(args, count, 3, &choice) < 0 || parse_fd(args[0], &fd) < 0 ||
        parse_range(args + 1, &offset, &length) < 0)
        return NULL;
    PyObject *hashes = blank(hashes_size(&choice, length));
    if (hashes == NULL) return NULL;
    if (hash_range(&choice, fd, offset, length, NULL, (uint8_t *)PyBytes_AsString(hashes),
                   &have) != FINE)
        Py_CLEAR(hashes);
    else
        cut(&hashes, hashes_size(&choice, have));
    return hashes;
}

static PyObject *blockhash_read_fd(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    struct choice choice;
    int fd;
    off_t offset;
    size_t length, have;
    (void)module;
    if (parse(args, count, 3, &choice) < 0 || parse_fd(args[0], &fd) < 0 ||
        parse_range(args + 1, &offset, &length) < 0)
        return NULL;
    PyObject *result = NULL;
    PyObject *data = blank(length), *hashes = blank(hashes_size(&choice, length));
    if (data != NULL && hashes != NULL &&
        hash_range(&choice, fd, offset, length, (uint8_t *)PyBytes_AsString(data),
                   (uint8_t *)PyBytes_AsString(hashes), &have) == FINE) {
        cut(&data, have);
        cut(&hashes, hashes_size(&choice, have));
        if (data != NULL && hashes != NULL) result = PyTuple_Pack(2, data, hashes);
    }
    Py_XDECREF(data);
    Py_XDECREF(hashes);
    return result;
}

/* ---- The module ---- */

static PyObject *blockhash_engines(PyObject *module, PyObject *number) {
    struct choice choice;
    (void)module;
    if (choose(number, NULL, &choice) < 0) return NULL;
    PyObject *names = PyList_New(0);
    for (size_t i = 0; names != NULL && i < choice.algorithm->engine_count; i++) {
        if (!choice.algorithm->engines[i].usable()) continue;
        PyObject *name = PyUnicode_FromString(choice.algorithm->engines[i].name);
        if (name == NULL || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))blockhash_##name, METH_FASTCALL, NULL}

static PyMethodDef functions[] = {
    FUNCTION(hash_blocks),
    FUNCTION(digest),
    FUNCTION(digest_many),
    FUNCTION(digest_fd),
    FUNCTION(hash_fd),
    FUNCTION(read_fd),
    {"engines", blockhash_engines, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_blockhash",
    .m_doc = "Hashes of the blocks of files, several at a time.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__blockhash(void);
PyMODINIT_FUNC PyInit__blockhash(void) {
    find_engines();
    return PyModuleDef_Init(&definition);
}
