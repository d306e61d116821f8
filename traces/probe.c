/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Bits flipped in a file of 40 KB make libhdf5 1.10 die about once in ten thousand, of a heap that it spoiled, and once
 * in a while loop for seconds; so a child looks first. It costs a fork and one more walk: 1 ms for a small file. */
#include "traces/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CPU_SECONDS = 20, MEMORY_BYTES_LOG2 = 32 };

/* What the library does with a damaged file is nobody's business but ours: no report, no core, no endless loop. */
static void bound_child(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], SIG_DFL);
    struct rlimit none = {0, 0}, cpu = {CPU_SECONDS, CPU_SECONDS};
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

static _Noreturn void look(const char *path, int out)
{
    static struct kv_err e;
    struct kv_trace t = {.file = -1, .root.id = H5I_INVALID_HID};
    bound_child();
    t.own = kv_arena_open();
    bool good = kv_trace_walk(&t, path, true, &e);
    if (t.root.id >= 0)
        H5Fclose(t.root.id); /* a spoiled heap often shows only when it is freed */
    malloc_trim(0);
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

/* What the child says, and its status: -1 when it did not come to an end of its own. */
static int hear(pid_t child, int in, char *text, size_t size)
{
    size_t n = 0;
    int status;
    for (;;) {
        ssize_t got = read(in, text + n, size - 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0 || (n += (size_t)got) == size - 1)
            break;
    }
    text[n] = '\0';
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool kv_trace_probe(const char *path, struct kv_err *e)
{
    int pipes[2];
    char text[4096];
    if (pipe2(pipes, O_CLOEXEC))
        return kv_fail(e, KV_ENV, "cannot look at '%s': %s", path, strerror(errno));
    kv_h5_lock(); /* no other thread may be inside the library when it is copied */
    pid_t child = fork();
    if (child == 0)
        look(path, pipes[1]);
    kv_h5_unlock();
    close(pipes[1]);
    if (child < 0) {
        close(pipes[0]);
        return kv_fail(e, KV_ENV, "cannot look at '%s': %s", path, strerror(errno));
    }
    int status = hear(child, pipes[0], text, sizeof text);
    close(pipes[0]);
    if (status == KV_OK)
        return true;
    if (*text && (status == KV_DATA || status == KV_ENV))
        return kv_fail(e, (enum kv_status)status, "%s", text);
    return kv_fail(e, KV_DATA, "trace '%s' is damaged: the HDF5 library cannot read it", path);
}
