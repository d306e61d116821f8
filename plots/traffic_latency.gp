# SPDX-License-Identifier: GPL-3.0-or-later
# How many requests are as fast: a panel for each of TTFT, TPOT and E2E, a line for each policy.
#   first[], last[]: rows of the data, from 0, of (panel - 1) x lines + line

array what[3] = ['TTFT', 'TPOT', 'E2E']
array per[3] = [1, 1000, 1]
array unit_of[3] = ['seconds', 'ms', 'seconds']
title = 'Latencies of requests'
line_2 = of_run
line_3 = timed
also = 1
array also_title[1] = ['99 % of requests']
array also_dash[1] = [2]
array also_tint[1] = [0x707070]
across = 3
down = 1
high = 560.
heading = ''
series(p, i) = (p - 1) * lines + i
