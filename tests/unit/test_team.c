/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Teams of threads: every member works once in each round, rounds do not overlap, a team is used again and again. */
#include "sim/team.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { ROUNDS = 2000, MOST = 256 };

struct count {
    int members;
    int calls[MOST];  /* each written by its member alone: a race would be one of the team's */
    long total[MOST]; /* what a member saw of the caller's number */
    long number;      /* written by the caller between rounds */
    atomic_int inside, most_inside;
};

static void work(void *context, int member)
{
    struct count *c = context;
    int inside = atomic_fetch_add(&c->inside, 1) + 1;
    if (inside > c->members || member < 0 || member >= c->members)
        atomic_store(&c->most_inside, inside);
    c->calls[member]++;
    c->total[member] += c->number;
    atomic_fetch_sub(&c->inside, 1);
}

static void run_rounds(struct kv_team *t, struct count *c, int rounds)
{
    for (int round = 1; round <= rounds; round++) {
        c->number = round;
        kv_team_run(t, work, c);
        if (atomic_load(&c->inside) != 0)
            fail_msg("round %d ended with %d members at work", round, atomic_load(&c->inside));
    }
    for (int i = 0; i < c->members; i++)
        if (c->calls[i] != rounds || c->total[i] != (long)rounds * (rounds + 1) / 2)
            fail_msg("member %d of %d: %d calls, sum %ld; expected %d calls", i, c->members, c->calls[i], c->total[i],
                     rounds);
    assert_int_equal(atomic_load(&c->most_inside), 0);
}

static void every_member_works_once_a_round(void **state)
{
    static const int sizes[] = {1, 2, 3, 5, 16};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct kv_arena *a = kv_arena_open();
        struct kv_team *t = kv_team_open(sizes[i], a);
        struct count first = {.members = kv_team_members(t)}, second = first;
        assert_int_equal(first.members, sizes[i]);
        run_rounds(t, &first, sizes[i] > 5 ? ROUNDS / 10 : ROUNDS);
        run_rounds(t, &second, 3); /* other work, the same team */
        kv_team_close(t);
        kv_arena_close(a);
    }
}

static void a_team_may_go_home_without_work(void **state)
{
    (void)state;
    for (int i = 1; i <= 40; i++) {
        struct kv_arena *a = kv_arena_open();
        kv_team_close(kv_team_open(i % 9, a)); /* none asked for: the caller alone */
        kv_arena_close(a);
    }
}

static void two_teams_do_not_meet(void **state)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_team *one = kv_team_open(3, a), *other = kv_team_open(2, a);
    struct count c = {.members = 3}, d = {.members = 2};
    (void)state;
    for (int i = 0; i < 200; i++) {
        c.number = d.number = 1;
        kv_team_run(one, work, &c);
        kv_team_run(other, work, &d);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(c.calls[i], 200);
    for (int i = 0; i < 2; i++)
        assert_int_equal(d.calls[i], 200);
    kv_team_close(other);
    kv_team_close(one);
    kv_arena_close(a);
}

static void there_are_no_more_members_than_allowed(void **state)
{
    struct kv_arena *a = kv_arena_open();
    struct kv_team *t = kv_team_open(100000, a);
    struct count c = {.members = kv_team_members(t)};
    (void)state;
    assert_in_range(c.members, 1, MOST);
    run_rounds(t, &c, 2);
    kv_team_close(t);
    kv_arena_close(a);
    assert_in_range(kv_team_cores(), 1, MOST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_member_works_once_a_round),
        cmocka_unit_test(a_team_may_go_home_without_work),
        cmocka_unit_test(two_teams_do_not_meet),
        cmocka_unit_test(there_are_no_more_members_than_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
