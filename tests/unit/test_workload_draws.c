/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Drawn traffic has the moments it should, depends on what it should alone; sessions and closed loops. */
#include "sim/draw.h"
#include "tests/unit/workload_case.h"

/* ---- draws ---- */

struct moments {
    double n, mean, cv;
};

static struct moments moments_of(double n, double sum, double square)
{
    double mean = sum / n;
    return (struct moments){n, mean, sqrt(square / n - mean * mean) / mean};
}

static struct moments gaps(struct fixture *f, const char *workload)
{
    struct kv_arrival r;
    double last = 0, n = 0, sum = 0, square = 0;
    assert_true(open_drawn(f, workload, 7));
    while (kv_workload_next(f->w, &r, &f->e) == KV_NEXT_ROW) {
        double gap = r.arrival_s - last;
        assert_true(gap >= 0);
        last = r.arrival_s;
        n++;
        sum += gap;
        square += gap * gap;
    }
    return moments_of(n, sum, square);
}

static void check_near(double got, double expected, double bound, const char *what)
{
    if (!(fabs(got - expected) <= bound))
        fail_msg("%s is %.6g; expected %.6g within %.3g", what, got, expected, bound);
}

/* The mean of n gaps of cv c has a standard error of c / sqrt(n); a gamma's sample cv has one of about c x sqrt((1 + 2
 * c^2) / 2n) (from its kurtosis, 6 c^2). Five of them are allowed; the seed is fixed, so it passes or fails for good.
 */
static void renewal_gaps_have_their_moments(void **state)
{
    struct fixture *f = *state;
    enum { N = 40000 };
    static const struct {
        const char *workload;
        double cv;
    } known[] = {
        {"arrivals = poisson\nrate = 4 /s\nrequests = 40000", 1},
        {"arrivals = gamma\ncv = 1\nrate = 4 /s\nrequests = 40000", 1},
        {"arrivals = gamma\ncv = 0.3\nrate = 4 /s\nrequests = 40000", 0.3},
        {"arrivals = gamma\ncv = 3\nrate = 4 /s\nrequests = 40000", 3},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        double cv = known[i].cv;
        struct moments m = gaps(f, known[i].workload);
        assert_true(m.n == N);
        check_near(m.mean * 4, 1, 5 * cv / sqrt(N), known[i].workload);
        check_near(m.cv, cv, 5 * cv * sqrt((1 + 2 * cv * cv) / (2.0 * N)), known[i].workload);
    }
}

/* Bursts of 10 s at 8 /s, 30 s of nothing: 2 /s on average. The time of the last of n arrivals is the sum of n / 80
 * cycles of 40 s, each with a standard deviation of sqrt(10^2 + 30^2) s in length and as much in arrivals. */
static void bursts_have_their_rate(void **state)
{
    struct fixture *f = *state;
    enum { N = 200000 };
    struct moments m = gaps(f, "arrivals = onoff\nrate = 8 /s\non_time = 10 s\noff_time = 30 s\nrequests = 200000");
    double cycles = N / 80.0;
    check_near(m.mean * 2, 1, 5 * sqrt(2 * (100 + 900)) / 40 / sqrt(cycles), "the rate of bursts");
    assert_true(m.cv > 3); /* 79 gaps of 1/8 s and one of 30 s: cv 6.7 or so */
    struct moments quiet =
        gaps(f, "arrivals = onoff\nrate = 8 /s\noff_rate = 8 /s\non_time = 10 s\noff_time = 30 s\nrequests = 40000");
    check_near(quiet.mean * 8, 1, 5 / sqrt(40000), "the rate when on and off are alike");
    check_near(quiet.cv, 1, 5 * sqrt(1.5 / 40000), "the cv when on and off are alike");
}

/* Quarters of a wave that starts at its lowest: the share of the first and last is 1/4 - amplitude / (2 pi). */
static void waves_have_their_shape(void **state)
{
    struct fixture *f = *state;
    struct kv_arrival r;
    double quarter[4] = {0}, n = 0;
    assert_true(
        open_drawn(f, "arrivals = diurnal\nrate = 10 /s\nperiod = 1000 s\namplitude = 80 %\nduration = 10000 s", 3));
    while (kv_workload_next(f->w, &r, &f->e) == KV_NEXT_ROW) {
        quarter[(int)(fmod(r.arrival_s, 1000) / 250)]++;
        n++;
    }
    check_near(n, 100000, 5 * sqrt(100000), "arrivals of ten waves");
    for (int i = 0; i < 4; i++) {
        double share = 0.25 + (i == 1 || i == 2 ? 0.8 : -0.8) / (2 * M_PI);
        check_near(quarter[i] / n, share, 5 * sqrt(share * (1 - share) / n), "a quarter's share");
    }
}

static struct moments lengths(struct fixture *f, const char *workload, bool output)
{
    struct kv_arrival r;
    double n = 0, sum = 0, square = 0;
    assert_true(open_drawn(f, workload, 5));
    while (kv_workload_next(f->w, &r, &f->e) == KV_NEXT_ROW) {
        double x = (double)(output ? r.output : r.prompt);
        n++;
        sum += x;
        square += x * x;
    }
    return moments_of(n, sum, square);
}

/* Errors as for gaps; a lognormal of cv 0.5 has kurtosis 8.0 (4.9 over the normal's 3): its sample cv's standard error
 * is below cv x sqrt(4 / n). */
static void drawn_lengths_have_their_moments(void **state)
{
    struct fixture *f = *state;
    enum { N = 40000 };
    struct moments m = lengths(f,
                               "arrivals = poisson\nrate = 1 /s\nrequests = 40000\nprompt_tokens = "
                               "2000\nprompt_distribution = lognormal\nprompt_cv = 0.5",
                               false);
    check_near(m.mean / 2000, 1, 5 * 0.5 / sqrt(N), "the mean of a lognormal");
    check_near(m.cv, 0.5, 5 * 0.5 * sqrt(4.0 / N), "the cv of a lognormal");
    m = lengths(f,
                "arrivals = poisson\nrate = 1 /s\nrequests = 40000\noutput_distribution = uniform\noutput_min = "
                "11\noutput_max = 20",
                true);
    check_near(m.mean, 15.5, 5 * sqrt(99 / 12.0) / sqrt(N), "the mean of 11 .. 20");
    m = lengths(
        f,
        "arrivals = poisson\nrate = 1 /s\nrequests = 40000\noutput_distribution = histogram\noutput_histogram = "
        "1:1, 5-9:0, 11-20:3",
        true);
    check_near(m.mean, 0.25 + 0.75 * 15.5, 5 * 7 / sqrt(N), "the mean of a histogram");
    m = lengths(f, "arrivals = poisson\nrate = 1 /s\nrequests = 100\nprompt_tokens = 77", false);
    assert_true(m.mean == 77);
}

static void histograms_draw_from_their_bins_alone(void **state)
{
    struct fixture *f = *state;
    struct kv_arrival r;
    int seen[32] = {0};
    assert_true(open_drawn(f,
                           "arrivals = poisson\nrate = 1 /s\nrequests = 4000\noutput_distribution = "
                           "histogram\noutput_histogram = 1:1, 5-9:0, 11-14:3, 20:1",
                           1));
    while (kv_workload_next(f->w, &r, &f->e) == KV_NEXT_ROW)
        seen[r.output]++;
    for (int i = 0; i < 32; i++)
        assert_true((seen[i] > 0) == (i == 1 || (i >= 11 && i <= 14) || i == 20));
}

static void collect(struct fixture *f, const char *workload, uint64_t seed, int n, struct kv_arrival *out)
{
    assert_true(open_drawn(f, workload, seed));
    for (int i = 0; i < n; i++) {
        assert_int_equal(kv_workload_next(f->w, &out[i], &f->e), KV_NEXT_ROW);
        out[i].block = NULL;
    }
}

static void draws_depend_on_what_they_should_alone(void **state)
{
    struct fixture *f = *state;
    enum { N = 200 };
    static const char traffic[] = "arrivals = gamma\ncv = 2\nrate = 3 /s\nrequests = 1000\n";
    struct kv_arrival a[N], b[N];
    collect(f, traffic, 1, N, a);
    collect(f, traffic, 1, N, b);
    assert_memory_equal(a, b, sizeof a);
    assert_true(kv_workload_rewind(f->w, &f->e));
    for (int i = 0; i < N; i++)
        check_next(f, a[i].arrival_s, a[i].prompt, a[i].output);
    collect(f, traffic, 2, N, b);
    assert_memory_not_equal(a, b, sizeof a);
    collect(f,
            kv_format(f->arena, "%s%s", traffic,
                      "prompt_tokens = 50\nprompt_distribution = lognormal\nturns = 3\nshared_prefix = 10"),
            1, N, b);
    for (int i = 0; i < N; i++)
        assert_true(a[i].arrival_s == b[i].arrival_s && a[i].prompt != b[i].prompt);
    static const char drawn[] = "prompt_distribution = lognormal\noutput_distribution = lognormal\nrequests = 1000\n";
    collect(f, kv_format(f->arena, "%s%s", drawn, "arrivals = poisson\nrate = 1 /s"), 1, N, a);
    collect(f, kv_format(f->arena, "%s%s", drawn, "arrivals = gamma\ncv = 4\nrate = 9 /s"), 1, N, b);
    gsl_rng *rng = kv_draw_open();
    for (int i = 0; i < N; i++) {
        int64_t prompt, output; /* as a plan without traffic counts them */
        kv_draw_request(rng, &f->s, 1, (uint64_t)i, 131072, &prompt, &output);
        assert_true(a[i].prompt == b[i].prompt && a[i].output == b[i].output);
        assert_true(a[i].prompt == prompt && a[i].output == output);
    }
    gsl_rng_free(rng);
}

static void wrong_keys_are_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *workload, *message;
    } known[] = {
        {"requests = 5",
         "plan.ini: [workload] has no traffic; set trace = FILE, or arrivals = poisson and rate = 2 /s"},
        {"arrivals = poisson\nrequests = 5", "plan.ini: [workload] arrivals needs a rate; write rate = 2 /s"},
        {"arrivals = poisson\nrate = 2 /s", "plan.ini: [workload] arrivals never end; set requests, or duration = 1 h"},
        {"arrivals = poisson\nrate = 2 /s\nrequests = 3\ncv = 2",
         "plan.ini: [workload] cv says nothing without arrivals = gamma; remove it, or set that"},
        {"arrivals = closed\nrequests = 3\ncv = 2",
         "plan.ini: [workload] cv says nothing without arrivals = gamma; remove it, or set that"},
        {"arrivals = poisson\nrate = 2 /s\nrequests = 3\nthink_time = 2 s\ntool_share = 5 %\noff_rate = 1 /s",
         "plan.ini: [workload] off_rate says nothing without arrivals = onoff; remove it, or set that\n"
         "plan.ini: [workload] think_time says nothing without turns or arrivals = closed; remove it, or set that\n"
         "plan.ini: [workload] tool_share says nothing without turns; remove it, or set that"},
        {"arrivals = gamma\nrate = 2 /s\nrequests = 3",
         "plan.ini: [workload] arrivals = gamma needs a cv; write cv = 2"},
        {"arrivals = onoff\nrate = 2 /s\nrequests = 3",
         "plan.ini: [workload] arrivals = onoff needs on_time and off_time; write on_time = 10 s"},
        {"arrivals = closed\nrequests = 3\nturns = 4",
         "plan.ini: [workload] turns says nothing with arrivals = closed, whose clients ask anew; remove one"},
        {"arrivals = closed\nrequests = 3\nrate = 4 /s",
         "plan.ini: [workload] rate says nothing here: clients of a closed loop ask when they were answered"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        assert_false(open_drawn(f, known[i].workload, 1));
        assert_int_equal(f->e.status, KV_USAGE);
        assert_string_equal(f->e.text, known[i].message);
    }
}

/* ---- sessions ---- */

static void sessions_grow_by_answer_and_question(void **state)
{
    struct fixture *f = *state;
    struct kv_arrival r, last;
    assert_true(
        open_drawn(f,
                   "arrivals = poisson\nrate = 1 /s\nrequests = 5\nprompt_tokens = 100\noutput_tokens = 20\nturns "
                   "= 3\nturn_prompt_tokens = 7\nthink_time = 5 s\nthink_cv = 0\nblock_tokens = 16\nshared_prefix "
                   "= 40",
                   1));
    uint64_t shared = 0;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_ROW);
        assert_true(r.request == i && r.turn == 0 && r.context == 0 && r.prompt == 100 && r.follows);
        assert_int_equal(r.n_blocks, 6);
        assert_true(!i || r.block[0] == shared);
        shared = r.block[0];
        uint64_t own = r.block[5];
        for (int turn = 1; turn < 3; turn++) {
            last = r;
            last.output = 1000 * turn; /* as long as the one who answers made it */
            assert_true(kv_workload_follow(f->w, &last, &r, &f->e));
            assert_true(r.request == i && r.turn == turn && r.arrival_s == 5);
            assert_true(r.context == last.prompt + last.output && r.prompt == r.context + 7 && r.output == 20);
            assert_true(r.follows == (turn < 2));
            assert_true(r.n_blocks == r.prompt / 16 && r.block[0] == shared && r.block[5] == own);
        }
        assert_false(kv_workload_follow(f->w, &r, &r, &f->e));
    }
    check_end(f);
}

static void a_full_conversation_ends(void **state)
{
    struct fixture *f = *state;
    struct kv_arrival r;
    assert_true(open_drawn(f, "arrivals = poisson\nrate = 1 /s\nrequests = 1\nturns = 9", 1));
    assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_ROW);
    r.output = 131072 - r.prompt - 300;
    assert_false(kv_workload_follow(f->w, &r, &r, &f->e));
}

/* 3,000 sessions; errors as above, five of them. */
static void waits_and_tools_have_their_means(void **state)
{
    struct fixture *f = *state;
    struct kv_arrival r;
    double tools = 0, users = 0, tool_wait = 0, think = 0, turns = 0, sessions = 0;
    assert_true(
        open_drawn(f,
                   "arrivals = poisson\nrate = 1 /s\nrequests = 3000\nprompt_tokens = 10\noutput_tokens = 1\n"
                   "turns_distribution = uniform\nturns_min = 1\nturns_max = 9\nturn_prompt_tokens = 5\n"
                   "tool_prompt_tokens = 50\nthink_time = 20 s\ntool_wait = 2 s\ntool_cv = 0.5\ntool_share = 30 %",
                   1));
    while (kv_workload_next(f->w, &r, &f->e) == KV_NEXT_ROW) {
        sessions++;
        turns++;
        while (r.follows) {
            assert_true(kv_workload_follow(f->w, &r, &r, &f->e));
            turns++;
            bool tool = r.prompt - r.context == 50;
            assert_true(tool || r.prompt - r.context == 5);
            *(tool ? &tools : &users) += 1;
            *(tool ? &tool_wait : &think) += r.arrival_s;
        }
    }
    check_near(turns / sessions, 5, 5 * sqrt(80 / 12.0 / sessions), "turns of a session");
    check_near(tools / (tools + users), 0.3, 5 * sqrt(0.21 / (tools + users)), "the share of tools");
    check_near(tool_wait / tools, 2, 5 * 0.5 * 2 / sqrt(tools), "a tool's wait");
    check_near(think / users, 20, 5 * 20 / sqrt(users), "a user's");
}

static void a_later_turn_depends_on_its_session_alone(void **state)
{
    struct fixture *f = *state;
    struct kv_arrival first[2], one, other, again;
    static const char workload[] = "arrivals = poisson\nrate = 1 /s\nrequests = 2\nturns = 5\nthink_time = 9 s\n"
                                   "turn_prompt_distribution = lognormal\noutput_distribution = lognormal";
    assert_true(open_drawn(f, workload, 1));
    for (int i = 0; i < 2; i++)
        assert_int_equal(kv_workload_next(f->w, &first[i], &f->e), KV_NEXT_ROW);
    assert_true(kv_workload_follow(f->w, &first[0], &one, &f->e));
    assert_true(kv_workload_follow(f->w, &first[1], &other, &f->e));
    assert_true(kv_workload_follow(f->w, &first[0], &again, &f->e));
    assert_true(one.arrival_s == again.arrival_s && one.prompt == again.prompt && one.output == again.output);
    assert_true(one.arrival_s != other.arrival_s && one.prompt != other.prompt && one.output != other.output);
}

static void closed_loops_hold_their_clients(void **state)
{
    struct fixture *f = *state;
    struct kv_arrival r, next;
    assert_true(open_drawn(f, "arrivals = closed\nconcurrency = 3\nrequests = 5\nthink_time = 4 s\nthink_cv = 0", 1));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_ROW);
        assert_true(r.request == i && r.arrival_s == 0 && r.follows);
    }
    check_end(f);
    assert_true(kv_workload_follow(f->w, &r, &next, &f->e));
    assert_true(next.request == 2 && next.turn == 1 && next.arrival_s == 4 && next.context == 0 && next.follows);
    assert_true(kv_workload_follow(f->w, &next, &next, &f->e));
    assert_true(next.turn == 2 && !next.follows);
    assert_false(kv_workload_follow(f->w, &next, &next, &f->e));
    /* of a file's rows */
    assert_true(open_text(f, HEADER "9,1,1\n5,2,2\n7,3,3\n", "arrivals = closed\nconcurrency = 2"));
    check_next(f, 0, 1, 1);
    assert_int_equal(kv_workload_next(f->w, &r, &f->e), KV_NEXT_ROW);
    check_end(f);
    assert_true(kv_workload_follow(f->w, &r, &next, &f->e));
    assert_true(next.request == 1 && next.prompt == 3);
    assert_false(kv_workload_follow(f->w, &next, &next, &f->e));
    assert_int_equal(f->e.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(renewal_gaps_have_their_moments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bursts_have_their_rate, set_up, tear_down),
        cmocka_unit_test_setup_teardown(waves_have_their_shape, set_up, tear_down),
        cmocka_unit_test_setup_teardown(drawn_lengths_have_their_moments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(histograms_draw_from_their_bins_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(draws_depend_on_what_they_should_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(wrong_keys_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sessions_grow_by_answer_and_question, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_conversation_ends, set_up, tear_down),
        cmocka_unit_test_setup_teardown(waits_and_tools_have_their_means, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_later_turn_depends_on_its_session_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(closed_loops_hold_their_clients, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
