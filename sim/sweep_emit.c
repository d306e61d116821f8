/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Scripts that run a sweep in shards elsewhere. Each can be run again: points that are done are passed over. */
#include "sim/core/random.h"
#include "sim/sweep.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

/* One word for sh: 'it'\''s'. For a recipe of make each '$' twice. */
static const char *quoted(const char *text, bool make, struct kv_arena *a)
{
    char *out = kv_alloc(a, 4 * strlen(text) + 3), *end = out;
    *end++ = '\'';
    for (; *text; text++) {
        *end++ = *text;
        if (*text == '\'') {
            memcpy(end, "\\''", 3);
            end += 3;
        } else if (make && *text == '$') {
            *end++ = '$';
        }
    }
    *end++ = '\'';
    *end = '\0';
    return out;
}

/* `kvsim sweep ... -o FOLDER`, to which more options and the config are added */
static const char *command(const struct kv_sweep *s, const char *program, bool make, struct kv_arena *a)
{
    const char *text = kv_format(a, "%s sweep", quoted(program, make, a));
    for (int i = 0; i < s->n_set; i++)
        text = kv_format(a, "%s --set %s", text, quoted(s->set[i], make, a));
    return kv_format(a, "%s -o %s", text, quoted(s->folder, make, a));
}

/* The log of GNU parallel is of one grid: in that of another the same shard would be other points. */
static uint64_t grid_hash(const struct kv_sweep *s)
{
    uint64_t h = 0;
    for (int i = 0; i < s->n_points; i++)
        h = kv_mix(h ^ kv_purpose(s->point[i].name));
    return h;
}

struct script {
    const char *command, *config, *folder, *here; /* quoted */
    const char *retry;
    uint64_t grid;
    int shards, jobs, points;
};

/* Logs lie in the sweep's folder, so it must be there before the first shard is: asking for the script again makes it,
 * and says what is wrong with the config by now. */
static void prepare(const struct script *t, const char *kind, FILE *out)
{
    fprintf(out, "cd %s || exit\n%s --emit %s -- %s >/dev/null || exit\n", t->here, t->command, kind, t->config);
}

static void slurm(const struct script *t, FILE *out)
{
    int jobs = t->jobs ? t->jobs : 1;
    fprintf(
        out,
        "#!/bin/sh\n"
        "# %d points as a job array of %d; run it with sh, not sbatch: the second job gathers when the array ended.\n"
        "# Options of sbatch go behind it: sh SCRIPT --partition=main --time=1:00:00\n",
        t->points, t->shards);
    prepare(t, "slurm", out);
    fprintf(out,
            "job=$(sbatch --parsable --job-name=kvsim-sweep --array=0-%d --ntasks=1 --cpus-per-task=%d"
            " --output=%s/logs/slurm-%%A_%%a.log \"$@\" <<'END'\n"
            "#!/bin/sh\n"
            "exec %s -j %d%s --shard \"$SLURM_ARRAY_TASK_ID/%d\" -- %s\n"
            "END\n"
            ") || exit\n",
            t->shards - 1, jobs, t->folder, t->command, jobs, t->retry, t->shards, t->config);
    fprintf(out,
            "exec sbatch --parsable --job-name=kvsim-gather --ntasks=1 --dependency=\"afterany:${job%%%%;*}\""
            " --output=%s/logs/slurm-%%j.log \"$@\" <<'END'\n"
            "#!/bin/sh\n"
            "exec %s --gather -- %s\n"
            "END\n",
            t->folder, t->command, t->config);
}

static void parallel(const struct script *t, FILE *out)
{
    fprintf(out,
            "#!/bin/sh\n"
            "# %d points in %d shards with GNU parallel. Options of parallel go behind it: sh SCRIPT --nice 10\n",
            t->points, t->shards);
    prepare(t, "parallel", out);
    fprintf(out, "seq 0 %d | parallel -q -I @SHARD@", t->shards - 1);
    if (t->jobs)
        fprintf(out, " -j %d", t->jobs);
    fprintf(out,
            " --joblog %s/logs/parallel-%016llx-%d.log --resume-failed \"$@\" \\\n"
            "    %s -j 1%s --shard @SHARD@/%d -- %s\n"
            "exec %s --gather -- %s\n",
            t->folder, (unsigned long long)t->grid, t->shards, t->command, t->retry, t->shards, t->config, t->command,
            t->config);
}

static void makefile(const struct script *t, FILE *out)
{
    fprintf(out,
            "# %d points in %d shards: make -j %d -f THIS\n"
            "shards := $(addprefix shard-,$(shell seq 0 %d))\n"
            ".PHONY: gather $(shards)\n"
            "gather: $(shards)\n"
            "\t@cd %s && %s --gather -- %s\n"
            "# a shard with failed points stops no other; gathering says which failed\n"
            "$(shards): shard-%%:\n"
            "\t-@cd %s && %s -j 1%s --shard $*/%d -- %s\n",
            t->points, t->shards, t->jobs ? t->jobs : 2, t->shards - 1, t->here, t->command, t->config, t->here,
            t->command, t->retry, t->shards, t->config);
}

bool kv_sweep_emit(const struct kv_sweep *s, enum kv_emit kind, int shards, int jobs, bool retry, FILE *out,
                   struct kv_arena *a, struct kv_err *e)
{
    char here[PATH_MAX], program[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n < 0 || !getcwd(here, sizeof here))
        return kv_fail(e, KV_ENV, "cannot tell where the program or this folder is: %s", strerror(errno));
    program[n] = '\0';
    bool make = kind == KV_EMIT_MAKE;
    struct script t = {.command = command(s, program, make, a),
                       .config = quoted(s->config, make, a),
                       .folder = quoted(s->folder, make, a),
                       .here = quoted(here, make, a),
                       .retry = retry ? " --retry-failed" : "",
                       .grid = grid_hash(s),
                       .shards = shards,
                       .jobs = jobs,
                       .points = s->n_points};
    switch (kind) {
    case KV_EMIT_SLURM:
        slurm(&t, out);
        break;
    case KV_EMIT_PARALLEL:
        parallel(&t, out);
        break;
    case KV_EMIT_MAKE:
        makefile(&t, out);
    }
    return true;
}
