/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Bits flipped in a file of 40 KB make libhdf5 1.10 die about once in ten thousand, of a heap that it spoiled, and once
 * in a while loop for seconds; so it reads files in a child only. What the child says may be anything, too: it was in
 * the same memory. The index goes through a file without a name, which is copied before it is looked at.
 *
 * After a fork of a program with threads, the child is that one thread, and locks that others held stay locked. Nobody
 * is inside the library: kv_h5_lock is held. malloc and stdio put their locks in order in fork itself (glibc). Nothing
 * else that locks is called. */
#include "traces/flatten.h"
#include "traces/h5.h"
#include "traces/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CPU_SECONDS = 20, BYTES_A_SECOND = 1 << 24, MEMORY_BYTES_LOG2 = 32 };

/* What the library does with a damaged file is nobody's business but ours: no report, no core, no endless loop. */
static void bound_child(int64_t file_bytes)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGXCPU, SIGXFSZ};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], SIG_DFL);
    rlim_t seconds = CPU_SECONDS + (rlim_t)(file_bytes / BYTES_A_SECOND),
           most_index = (rlim_t)kv_index_most(file_bytes);
    struct rlimit none = {0, 0}, cpu = {seconds, seconds}, size = {most_index, most_index};
    setrlimit(RLIMIT_FSIZE, &size);
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_CPU, &cpu);
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm && fscanf(statm, "%ld", &pages) == 1) {
        rlim_t most = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + ((rlim_t)1 << MEMORY_BYTES_LOG2);
        struct rlimit memory = {most, most};
        setrlimit(RLIMIT_AS, &memory);
    }
    if (statm)
        fclose(statm);
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0)
        dup2(null, STDERR_FILENO); /* glibc's complaints about a heap that the library spoiled */
}

static _Noreturn void look(int file, int64_t file_bytes, const char *path, int index, int out)
{
    static struct kv_err e;
    bound_child(file_bytes);
    bool good = kv_flatten(file, file_bytes, path, index, &e);
    malloc_trim(0); /* looks at the whole heap */
    const char *text = e.text;
    size_t left = good ? 0 : strlen(text);
    while (left > 0) {
        ssize_t n = write(out, text, left);
        if (n <= 0)
            break;
        text += n;
        left -= (size_t)n;
    }
    _exit(good ? KV_OK : (int)e.status);
}

/* What the child says, and its status: -1 when it did not come to an end of its own. One line, whatever it is. */
static int hear(pid_t child, int in, char *text, size_t size)
{
    size_t n = 0;
    int status;
    while (n < size - 1) {
        ssize_t got = read(in, text + n, size - 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    text[n] = '\0';
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A copy of what the child wrote: nobody else can change it any more. */
static bool copy_index(int file, int64_t most, void **index, size_t *size)
{
    struct stat st;
    *index = NULL;
    if (fstat(file, &st) || st.st_size <= 0 || st.st_size > most || !(*index = malloc((size_t)st.st_size)))
        return false;
    for (*size = 0; *size < (size_t)st.st_size;) {
        ssize_t n = pread(file, (char *)*index + *size, (size_t)st.st_size - *size, (off_t)*size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            free(*index);
            return false;
        }
        *size += (size_t)n;
    }
    return true;
}

static bool cannot(const char *path, struct kv_err *e)
{
    return kv_fail(e, KV_ENV, "cannot look at '%s': %s", path, strerror(errno));
}

/* Starts the child and waits for it. */
static bool ask(int file, int64_t file_bytes, const char *path, int index, struct kv_err *e)
{
    int pipes[2];
    char text[4096];
    if (pipe2(pipes, O_CLOEXEC))
        return cannot(path, e);
    kv_h5_lock();
    pid_t child = fork();
    if (child == 0)
        look(file, file_bytes, path, index, pipes[1]);
    int why = errno;
    kv_h5_unlock();
    close(pipes[1]);
    if (child < 0) {
        close(pipes[0]);
        errno = why;
        return cannot(path, e);
    }
    int status = hear(child, pipes[0], text, sizeof text);
    close(pipes[0]);
    if (status == KV_OK)
        return true;
    if (*text && (status == KV_DATA || status == KV_ENV))
        return kv_fail(e, (enum kv_status)status, "%s", text);
    return kv_fail(e, KV_DATA, "trace '%s' is damaged: the HDF5 library cannot read it", path);
}

bool kv_trace_probe(int file, int64_t file_bytes, const char *path, void **index, size_t *size, struct kv_err *e)
{
    int between = memfd_create("trace index", MFD_CLOEXEC);
    if (between < 0)
        return cannot(path, e);
    bool good = ask(file, file_bytes, path, between, e);
    if (good && !copy_index(between, kv_index_most(file_bytes), index, size))
        good = kv_fail(e, KV_DATA, "trace '%s' is damaged: the HDF5 library cannot read it", path);
    close(between);
    return good;
}
