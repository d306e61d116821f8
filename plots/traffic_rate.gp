# SPDX-License-Identifier: GPL-3.0-or-later
# p99 of latencies against the rate at which requests arrive; the knee is where a line is farthest below its chord.
#   first[], last[]: rows of the data, from 0; knee[]: of (panel - 1) x lines + line, or -1

joined(a, b) = a . (strlen(a) && strlen(b) ? '; ' : '') . b
array what[3] = ['TTFT', 'TPOT', 'E2E']
array per[3] = [1, 1000, 1]
array unit_of[3] = ['seconds', 'ms', 'seconds']
title = 'p99 of latencies against the rate of requests'
about = 'x: requests/s'
line_2 = 'knee: farthest below the chord from the lowest rate to the highest, of lines that at least double'
line_3 = ''
letters = larger(letters, 28)
also = 1
array also_title[1] = ['knee']
array also_dash[1] = [3]
array also_tint[1] = [0x707070]
across = 3
down = 1
high = 560.
heading = ''
series(p, i) = (p - 1) * lines + i
# A line by its word; of an empty list gnuplot looks at one, too, though it draws none.
of(w) = strlen(w) ? int(w) : 1
stats data skip 1 using 2 nooutput
x_max = larger(1e-9, STATS_max)
