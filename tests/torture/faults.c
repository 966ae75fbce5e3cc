/* Preloaded under the log: records every change of the files below $FAULTS_DIR, and kills the process or fails the
 * call at any chosen one. So every state that a disk can be in is a point of its own, and the product has no hooks.
 *
 * Records: op, length of the path, offset, length of the content, path, content. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int record_to = -1;
static char below[1024];
static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER;
static long calls, at_call, until_call;
static int fault; /* 0: SIGKILL, else the errno that the call fails with. */

#define REAL(name) \
    static typeof(name) *real; \
    if (!real) real = (typeof(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("FAULTS_DIR"), *records = getenv("FAULTS_RECORDS");
    if (folder && !realpath(folder, below)) below[0] = 0;
    if (records) record_to = open(records, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* From the at-th call on, and for as many calls as `times` says (0: for ever). */
void faults_arm(long at, int error, long times) {
    calls = 0;
    at_call = at;
    until_call = times ? at + times : 0;
    fault = error;
}

long faults_calls(void) { return calls; }

static int is_ours(const char *path) {
    size_t length = strlen(below);
    return length && !strncmp(path, below, length) && !strstr(path, "-shm");
}

static int path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, 1023);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_ours(path);
}

static void absolute(const char *name, char *path) {
    char folder[512];
    if (name[0] == '/' || !getcwd(folder, sizeof folder)) snprintf(path, 1024, "%s", name);
    else snprintf(path, 1024, "%s/%.500s", folder, name);
}

/* Whether this call is to fail; a kill does not come back. */
static int fails(void) {
    if (!at_call) return 0;
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (number < at_call || (until_call && number >= until_call)) return 0;
    if (!fault) {
        raise(SIGKILL);
        for (;;) pause();
    }
    errno = fault;
    return 1;
}

static void record(char op, const char *path, int64_t offset, const void *content, uint32_t size) {
    if (record_to < 0) return;
    ssize_t (*put)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    uint16_t length = strlen(path);
    char head[15];
    head[0] = op;
    memcpy(head + 1, &length, 2);
    memcpy(head + 3, &offset, 8);
    memcpy(head + 11, &size, 4);
    int before = errno;
    pthread_mutex_lock(&recording);
    if (put(record_to, head, 15) + put(record_to, path, length) + (size ? put(record_to, content, size) : 0) < 0) abort();
    pthread_mutex_unlock(&recording);
    errno = before;
}

ssize_t pwrite64(int file, const void *content, size_t size, off64_t offset) {
    REAL(pwrite64);
    char path[1024];
    int ours = path_of(file, path);
    if (ours && fails()) return -1;
    ssize_t done = real(file, content, size, offset);
    if (ours && done > 0) record('W', path, offset, content, done);
    return done;
}

ssize_t pwrite(int file, const void *content, size_t size, off_t offset) { return pwrite64(file, content, size, offset); }

ssize_t write(int file, const void *content, size_t size) {
    REAL(write);
    char path[1024];
    int ours = path_of(file, path);
    if (ours && fails()) return -1;
    ssize_t done = real(file, content, size);
    if (ours && done > 0) record('W', path, lseek(file, 0, SEEK_CUR) - done, content, done);
    /* What is said on the standard output is what was acknowledged at this moment. */
    if (!ours && file == 1 && done > 0) record('A', "", 0, content, done);
    return done;
}

ssize_t pread64(int file, void *content, size_t size, off64_t offset) {
    REAL(pread64);
    char path[1024];
    if (getenv("FAULTS_READS") && path_of(file, path) && fails()) return -1;
    return real(file, content, size, offset);
}

ssize_t pread(int file, void *content, size_t size, off_t offset) { return pread64(file, content, size, offset); }

static int sync_of(int file, int (*real)(int)) {
    char path[1024];
    int ours = path_of(file, path);
    if (ours && fails()) return -1;
    int done = real(file);
    if (ours && !done) record('S', path, 0, 0, 0);
    return done;
}

int fsync(int file) {
    REAL(fsync);
    return sync_of(file, real);
}

int fdatasync(int file) {
    REAL(fdatasync);
    return sync_of(file, real);
}

int ftruncate64(int file, off64_t size) {
    REAL(ftruncate64);
    char path[1024];
    int ours = path_of(file, path);
    if (ours && fails()) return -1;
    int done = real(file, size);
    if (ours && !done) record('T', path, size, 0, 0);
    return done;
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int unlink(const char *name) {
    REAL(unlink);
    char path[1024];
    absolute(name, path);
    int ours = is_ours(path);
    if (ours && fails()) return -1;
    int done = real(name);
    if (ours && !done) record('U', path, 0, 0, 0);
    return done;
}

int rename(const char *from, const char *to) {
    REAL(rename);
    char path[1024], target[1024];
    absolute(from, path);
    absolute(to, target);
    int ours = is_ours(path);
    if (ours && fails()) return -1;
    int done = real(from, to);
    if (ours && !done) record('R', path, 0, target, strlen(target));
    return done;
}
