# SPDX-License-Identifier: GPL-3.0-or-later
# Each request of a measured run against the simulated one: times above, errors below.
#   first[], last[]: rows of the data, from 0, of (panel - 1) x lines + line

array what[3] = ['TTFT', 'TPOT', 'E2E']
array per[3] = [1, 1000, 1]
array unit_of[3] = ['seconds', 'ms', 'seconds']
title = 'Simulated against measured, request by request'
line_2 = of_run
line_3 = timed
also = 2
array also_title[2] = ['no error', 'off by 10 %']
array also_dash[2] = [1, 3]
array also_tint[2] = [0x707070, 0x707070]
across = 3
down = 2
high = 360.
heading = ''
series(p, i) = (p - 1) * lines + i
