/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Points run as processes of this program, a few at a time: one that crashes or is killed takes no other along. */
#include "sim/interrupt.h"
#include "sim/output.h"
#include "sim/progress.h"
#include "sim/sweep.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A plan that was told to end has this long before it is killed. */
enum { PATIENCE_S = 10 };

struct child {
    pid_t pid;
    int point;
};

struct runner {
    const struct kv_sweep *sweep;
    const struct kv_sweep_how *how;
    struct child *child; /* (how->jobs,) */
    int n_children, next;
    int threads;     /* of each */
    bool stopped;    /* by an error of ours */
    time_t told;     /* when the children were told to end; 0: not yet */
    sigset_t before; /* signals blocked before, as the children shall have them */
    struct kv_progress progress;
    struct kv_arena *arena;
};

static const char *log_path(const struct runner *r, int point, const char *suffix)
{
    return kv_format(r->arena, "%s/logs/%s%s", r->sweep->folder, r->sweep->point[point].name, suffix);
}

/* ---- starting ---- */

static char **arguments(const struct runner *r, int point)
{
    const struct kv_sweep *s = r->sweep;
    struct kv_arena *a = r->arena;
    int most = 2 * (s->n_set + s->n_axes) + 10, n = 0;
    char **argv = KV_NEW_N(a, char *, most);
    argv[n++] = kv_copy_text(a, "kvsim");
    argv[n++] = kv_copy_text(a, "plan");
    for (int i = 0; i < s->n_set; i++) {
        argv[n++] = kv_copy_text(a, "--set");
        argv[n++] = kv_copy_text(a, s->set[i]);
    }
    for (int i = 0; i < s->n_axes; i++) {
        argv[n++] = kv_copy_text(a, "--set");
        argv[n++] = kv_format(a, "%s=%s", s->axis[i].key, kv_sweep_value(s, point, i));
    }
    argv[n++] = kv_copy_text(a, "-q");
    argv[n++] = kv_format(a, "-j%d", r->threads);
    argv[n++] = kv_copy_text(a, "-o");
    argv[n++] = kv_copy_text(a, kv_sweep_path(s, point, ".part", a));
    argv[n++] = kv_copy_text(a, "--");
    argv[n++] = kv_copy_text(a, s->config);
    KV_ASSERT(n < most);
    return argv;
}

/* Between fork and exec: nothing but system calls. */
_Noreturn static void become(char **argv, const int fd[3], pid_t parent, const sigset_t *signals)
{
    sigprocmask(SIG_SETMASK, signals, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* so that nobody else's run of this point meets an orphan */
    if (getppid() == parent && dup2(fd[0], 0) >= 0 && dup2(fd[1], 1) >= 0 && dup2(fd[2], 2) >= 0)
        execv("/proc/self/exe", argv);
    _exit(127);
}

static bool start(struct runner *r, int point, struct kv_err *e)
{
    const char *out = log_path(r, point, ".out"), *err = log_path(r, point, ".err"), *failed = "/dev/null";
    char **argv = arguments(r, point);
    int mode = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
    pid_t parent = getpid(), pid = -1;
    kv_remove_tree(kv_sweep_path(r->sweep, point, ".part", r->arena)); /* of a run that was killed */
    unlink(kv_sweep_path(r->sweep, point, ".failed", r->arena));
    int fd[3] = {open("/dev/null", O_RDONLY | O_CLOEXEC), open(out, mode, 0666), open(err, mode, 0666)}, why = errno;
    if (fd[0] >= 0 && fd[1] >= 0 && fd[2] >= 0) {
        failed = "a process";
        pid = fork();
        why = errno;
        if (!pid)
            become(argv, fd, parent, &r->before);
    } else if (fd[1] < 0 || fd[2] < 0) {
        failed = fd[1] < 0 ? out : err;
    }
    for (int i = 0; i < 3; i++)
        if (fd[i] >= 0)
            close(fd[i]);
    if (pid < 0) {
        kv_sweep_unlock(r->sweep, point, r->arena);
        return kv_fail(e, KV_ENV, "cannot start '%s': %s", failed, strerror(why));
    }
    r->child[r->n_children++] = (struct child){pid, point};
    return true;
}

/* Starts the next point that is left and that nobody else runs; false when there is none, or after a message. */
static bool start_next(struct runner *r, struct kv_err *e)
{
    const struct kv_sweep *s = r->sweep;
    for (; r->next < s->n_points; r->next++) {
        bool taken = false;
        int point = r->next;
        if (!kv_sweep_mine(s, point))
            continue;
        enum kv_point_state state = kv_sweep_state(s, point, r->arena);
        if (state == KV_POINT_DONE || (state == KV_POINT_FAILED && !r->how->retry))
            continue;
        if (!kv_sweep_lock(s, point, &taken, r->arena, e))
            return false;
        if (taken && kv_sweep_state(s, point, r->arena) == KV_POINT_DONE) { /* while we looked */
            kv_sweep_unlock(s, point, r->arena);
            continue;
        }
        if (!taken)
            continue;
        r->next++;
        return start(r, point, e);
    }
    return false;
}

/* ---- ending ---- */

/* NULL: it is done. */
static const char *why_not_done(const struct runner *r, int point, int status)
{
    struct kv_arena *a = r->arena;
    const char *part = kv_sweep_path(r->sweep, point, ".part", a);
    struct stat st;
    if (WIFSIGNALED(status))
        return kv_format(a, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (WEXITSTATUS(status) == 127)
        return "the program could not be started";
    bool there = !stat(kv_format(a, "%s/summary.json", part), &st);
    if (WEXITSTATUS(status) > 1 || !there) /* 1: the answer is no, and an answer */
        return kv_format(a, "status %d", WEXITSTATUS(status));
    if (strcmp(kv_file_hash(kv_format(a, "%s/config.resolved.ini", part), a), r->sweep->point[point].config) != 0)
        return "the config changed while the sweep ran";
    return NULL;
}

/* What was told to end, by us or by somebody else, is still to do. */
static bool was_stopped(int status)
{
    int number = WIFSIGNALED(status) ? WTERMSIG(status) : WIFEXITED(status) ? WEXITSTATUS(status) - 128 : 0;
    return number == SIGINT || number == SIGTERM;
}

static bool mark_failed(const struct runner *r, int point, const char *why, struct kv_err *e)
{
    struct kv_out out;
    if (!kv_out_open(&out, kv_sweep_path(r->sweep, point, ".failed", r->arena), r->arena, e))
        return false;
    fprintf(out.file, "%s\n", why);
    return kv_out_close(&out, e);
}

static bool finish(struct runner *r, const struct child *c, int status, struct kv_err *e)
{
    const struct kv_sweep *s = r->sweep;
    const char *part = kv_sweep_path(s, c->point, ".part", r->arena), *whole = kv_sweep_path(s, c->point, "", r->arena);
    const char *why = why_not_done(r, c->point, status), *said = why ? why : "done";
    bool good = true, again = was_stopped(status) || (r->told && WIFSIGNALED(status));
    if (!why) {
        kv_remove_tree(whole); /* it has no summary.json, or the point would not have been run */
        if (rename(part, whole))
            good = kv_fail(e, KV_ENV, "cannot rename '%s': %s", part, strerror(errno));
    } else if (!again) {
        good = mark_failed(r, c->point, why, e);
    }
    if (why)
        kv_remove_tree(part);
    kv_sweep_unlock(s, c->point, r->arena);
    if (r->how->verbose)
        fprintf(stderr, "%s %s: %s\n", s->point[c->point].name, kv_sweep_point_text(s, c->point, r->arena), said);
    kv_progress_add(&r->progress, 1);
    return good;
}

static void tell(struct runner *r)
{
    time_t now = time(NULL);
    bool first = !r->told, late = r->told && now - r->told > PATIENCE_S;
    for (int i = 0; i < r->n_children && (first || late); i++)
        kill(r->child[i].pid, late ? SIGKILL : SIGTERM);
    if (first)
        r->told = now;
}

/* Takes leave of every child that has ended. */
static bool reap(struct runner *r, struct kv_err *e)
{
    bool good = true;
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        for (int i = 0; i < r->n_children; i++)
            if (r->child[i].pid == pid) {
                struct child ended = r->child[i];
                r->child[i] = r->child[--r->n_children];
                good &= finish(r, &ended, status, e);
                break;
            }
    return good;
}

static void run_all(struct runner *r, struct kv_err *e)
{
    const struct timespec second = {.tv_sec = 1};
    for (;;) {
        while (!kv_interrupted() && !r->stopped && r->n_children < r->how->jobs && start_next(r, e))
            ;
        r->stopped |= e->n > 0;
        if (!r->n_children)
            return;
        if (kv_interrupted() || r->stopped)
            tell(r);
        ppoll(NULL, 0, &second, &r->before); /* until a child ends or a signal comes: they are heard only here */
        r->stopped |= !reap(r, e);
    }
}

static void wake(int number)
{
    (void)number;
}

static int count_to_do(const struct runner *r)
{
    int n = 0;
    for (int i = 0; i < r->sweep->n_points; i++) {
        enum kv_point_state state = kv_sweep_mine(r->sweep, i) ? kv_sweep_state(r->sweep, i, r->arena) : KV_POINT_DONE;
        n += state == KV_POINT_LEFT || (state == KV_POINT_FAILED && r->how->retry);
    }
    return n;
}

bool kv_sweep_run(const struct kv_sweep *s, const struct kv_sweep_how *how, struct kv_arena *a, struct kv_err *e)
{
    struct runner r = {.sweep = s, .how = how, .arena = a, .child = KV_NEW_N(a, struct child, how->jobs)};
    struct sigaction woken = {.sa_handler = wake}, before;
    cpu_set_t cores;
    sigset_t heard;
    int n = sched_getaffinity(0, sizeof cores, &cores) ? 1 : CPU_COUNT(&cores);
    r.threads = n > how->jobs ? n / how->jobs : 1;
    kv_catch_signals();
    sigemptyset(&heard);
    sigaddset(&heard, SIGINT);
    sigaddset(&heard, SIGTERM);
    sigaddset(&heard, SIGCHLD);
    sigprocmask(SIG_BLOCK, &heard, &r.before);
    sigaction(SIGCHLD, &woken, &before);
    kv_progress_start(&r.progress, "points", count_to_do(&r), how->quiet);
    run_all(&r, e);
    kv_progress_end(&r.progress);
    sigaction(SIGCHLD, &before, NULL);
    sigprocmask(SIG_SETMASK, &r.before, NULL);
    if (kv_interrupted())
        return kv_fail(e, kv_interrupt_status(), "interrupted; run it again to go on");
    return !r.stopped;
}
