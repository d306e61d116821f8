# SPDX-License-Identifier: GPL-3.0-or-later
# A point for each policy. 'pareto': output tokens a second against the peak of the pool; joined are those that no other
# beats in both. 'clocks': GiB seconds on the wall against the footprint in tokens; both clocks agree along the line
# through the full cache.

pareto = shown eq 'pareto'
stats data skip 1 using 2 nooutput
x_max = larger(1e-12, STATS_max)
widest = STATS_index_max
stats data skip 1 using 3 nooutput
y_max = larger(1e-12, STATS_max)
unit = pareto ? unit_bytes(x_max) : 0.01
unit_y = 1.
title = pareto ? 'Throughput against memory' : 'Two clocks: footprint in tokens and memory on the wall'
line_2 = of_run
line_3 = pareto ? timed : 'on the line the two agree: half the footprint, half the GiB seconds of what holds the most'
# The point of the largest footprint and, among these, of the most GiB s: the full cache at its own element size.
if (!pareto) { stats data skip 1 using ($2 > 0.9999 * x_max ? $3 : NaN) nooutput }
y_of_widest = STATS_max
also = 1
array also_title[1] = [pareto ? 'no other policy is better in both' : 'the clocks agree']
array also_dash[1] = [3]
array also_tint[1] = [0x707070]
across = 1
down = 1
high = 560.
heading = ''
