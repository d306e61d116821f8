/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A long stream of short requests through a plan with traffic: seconds and memory, for a load that is borne and for one
 * that piles up. KV_REQUESTS=N serves more or fewer. */
#include "sim/serve/traffic.h"
#include "tests/bench/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

static bool serve(const char *requests, const char *rate, struct kv_err *e)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_settings *s = KV_NEW(a, struct kv_settings);
    struct kv_traffic *t = KV_NEW(a, struct kv_traffic);
    struct rusage used;
    const char *set[] = {"model.name=Llama-3.1-8B",
                         "workload.arrivals=poisson",
                         "workload.prompt_tokens=30",
                         "workload.prompt_distribution=lognormal",
                         "workload.output_tokens=5",
                         "workload.output_distribution=lognormal",
                         "plan.baselines=false",
                         "policy full.kind=full",
                         kv_format(a, "workload.requests=%s", requests),
                         kv_format(a, "workload.rate=%s", rate)};
    double begun = now();
    bool good = kv_settings_read(NULL, set, sizeof set / sizeof *set, s, a, e) &&
                kv_traffic_compute(t, s, 1, NULL, NULL, true, a, e);
    double took = now() - begun;
    getrusage(RUSAGE_SELF, &used);
    if (good)
        printf("  %s requests at %s: %s, %.1f s, %.2f us each, at most %ld MiB resident\n", requests, rate,
               kv_verdict_names[t->row[0].verdict], took, 1e6 * took / strtod(requests, NULL), used.ru_maxrss / 1024);
    if (t->asked)
        kv_traffic_close(t);
    kv_arena_close(a);
    return good;
}

int main(void)
{
    static struct kv_err e;
    const char *requests = getenv("KV_REQUESTS");
    requests = requests ? requests : "1000000";
    if (serve(requests, "1000 /s", &e) && serve(requests, "1000000 /s", &e))
        return 0;
    fprintf(stderr, "%s\n", e.text);
    return 1;
}
