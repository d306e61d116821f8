/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What stands in a sweep's folder: which points are done, and who runs the others. Everything is a file that appears in
 * one step, so that processes on several machines see the same. */
#include "sim/output.h"
#include "sim/sweep.h"
#include "sim/table.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef KV_VERSION
#define KV_VERSION "unknown"
#endif

const char *const kv_point_states[] = {"done", "failed", "running", "left"};

enum { HOLDER_TEXT = 512, WRITTEN_WITHIN_S = 60 };

static bool is_there(const char *path)
{
    struct stat st;
    return !stat(path, &st);
}

/* ---- the folder ---- */

static bool make_folder(const char *path, struct kv_err *e)
{
    return !mkdir(path, 0777) || errno == EEXIST || kv_fail(e, KV_ENV, "cannot make '%s': %s", path, strerror(errno));
}

static json_t *provenance(const struct kv_sweep *s, struct kv_arena *a)
{
    json_t *set = json_array();
    for (int i = 0; i < s->n_set; i++)
        json_array_append_new(set, kv_json_text(s->set[i]));
    return json_pack("{s:s, s:s, s:s, s:[{s:o, s:s}], s:o}", "program", "kvsim", "version", KV_VERSION, "command",
                     "sweep", "inputs", "path", kv_json_text(s->config), "hash",
                     kv_format(a, "%016llx", (unsigned long long)s->hash), "set", set);
}

/* Written once, whoever comes first: shards that start together would only write the same. */
static bool write_provenance(const struct kv_sweep *s, struct kv_arena *a, struct kv_err *e)
{
    struct kv_out out;
    const char *path = kv_format(a, "%s/provenance.json", s->folder);
    json_t *wanted = provenance(s, a), *there = json_load_file(path, 0, NULL);
    bool same = there && json_equal(wanted, there), good = same || kv_out_open(&out, path, a, e);
    if (good && !same) {
        kv_json_print(wanted, out.file);
        good = kv_out_close(&out, e);
    }
    json_decref(wanted);
    json_decref(there);
    return good;
}

bool kv_sweep_folder(const struct kv_sweep *s, struct kv_arena *a, struct kv_err *e)
{
    if (is_there(kv_format(a, "%s/summary.json", s->folder)))
        return kv_fail(e, KV_USAGE, "'%s' holds the results of a plan; give an empty folder or a new name", s->folder);
    return kv_result_folder(s->folder, a, e) && write_provenance(s, a, e) &&
           make_folder(kv_format(a, "%s/points", s->folder), e) && make_folder(kv_format(a, "%s/logs", s->folder), e);
}

bool kv_sweep_begun(const struct kv_sweep *s, struct kv_arena *a)
{
    return is_there(kv_format(a, "%s/points", s->folder));
}

/* ---- locks ---- */

/* When a process started, in ticks since the machine did: a number is used again, number and start are not. -1: there
 * is no such process any more. */
static long long started(long pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *in = fopen(path, "r");
    if (!in)
        return errno == ENOENT ? -1 : 0;
    size_t n = fread(text, 1, sizeof text - 1, in);
    fclose(in);
    text[n] = '\0';
    const char *c = strrchr(text, ')'); /* behind the name, which may hold anything */
    char state = 0;
    long long start = 0;
    /* the fields 3 (state) and 22 (starttime) of proc(5) */
    if (!c || sscanf(c + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %lld", &state,
                     &start) != 2)
        return -1;
    return state == 'Z' || state == 'X' ? -1 : start;
}

static void this_holder(char text[HOLDER_TEXT])
{
    char host[HOST_NAME_MAX + 1] = "";
    gethostname(host, sizeof host - 1);
    snprintf(text, HOLDER_TEXT, "%ld %lld %s\n", (long)getpid(), started(getpid()), host);
}

/* Whether the lock's process may be alive. Of another host nothing is known; one that is being written has no text yet.
 */
static bool is_alive(int fd)
{
    char text[HOLDER_TEXT], host[HOST_NAME_MAX + 1] = "", other[HOST_NAME_MAX + 1] = "";
    struct stat st;
    long pid;
    long long start;
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    _Static_assert(HOST_NAME_MAX == 64, "the width below");
    if (!strchr(text, '\n') || sscanf(text, "%ld %lld %64s", &pid, &start, other) < 2)
        return !fstat(fd, &st) && time(NULL) - st.st_mtime < WRITTEN_WITHIN_S;
    gethostname(host, sizeof host - 1);
    return strcmp(host, other) != 0 || started(pid) == start;
}

static bool is_locked(const struct kv_sweep *s, int point, struct kv_arena *a)
{
    int fd = open(kv_sweep_path(s, point, ".lock", a), O_RDONLY | O_CLOEXEC);
    bool alive = fd >= 0 && is_alive(fd);
    if (fd >= 0)
        close(fd);
    return alive;
}

enum kv_point_state kv_sweep_state(const struct kv_sweep *s, int point, struct kv_arena *a)
{
    if (is_there(kv_sweep_path(s, point, "/summary.json", a)))
        return KV_POINT_DONE;
    if (is_there(kv_sweep_path(s, point, ".failed", a)))
        return KV_POINT_FAILED;
    return is_locked(s, point, a) ? KV_POINT_RUNNING : KV_POINT_LEFT;
}

static bool write_holder(int fd)
{
    char text[HOLDER_TEXT];
    this_holder(text);
    return pwrite(fd, text, strlen(text), 0) == (ssize_t)strlen(text);
}

/* The lock of a dead process becomes ours in place. Of two that try, one holds it while it looks and writes; the other
 * then finds somebody alive. */
static bool take_over(const char *path)
{
    struct stat held, named;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool taken = !flock(fd, LOCK_EX | LOCK_NB) && !fstat(fd, &held) && !stat(path, &named) &&
                 held.st_ino == named.st_ino && held.st_dev == named.st_dev && !is_alive(fd) && !ftruncate(fd, 0) &&
                 write_holder(fd);
    close(fd);
    return taken;
}

bool kv_sweep_lock(const struct kv_sweep *s, int point, bool *taken, struct kv_arena *a, struct kv_err *e)
{
    const char *path = kv_sweep_path(s, point, ".lock", a);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    *taken = fd >= 0;
    if (fd < 0 && errno == EEXIST) {
        *taken = take_over(path);
        return true;
    }
    bool good = fd >= 0 && write_holder(fd);
    int why = errno;
    if (fd >= 0)
        close(fd);
    if (fd >= 0 && !good)
        unlink(path);
    return good || kv_fail(e, KV_ENV, "cannot write '%s': %s", path, strerror(why));
}

void kv_sweep_unlock(const struct kv_sweep *s, int point, struct kv_arena *a)
{
    unlink(kv_sweep_path(s, point, ".lock", a));
}
