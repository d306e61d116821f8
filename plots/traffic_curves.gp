# SPDX-License-Identifier: GPL-3.0-or-later
# How many requests run and wait over time; the first line is the measured run.
#   first[], last[]: rows of the data, from 0

array what[2] = ['running', 'waiting']
title = 'Requests in the engine, simulated and measured'
line_2 = of_run
line_3 = timed
also = 0
array also_title[1] = ['']
array also_dash[1] = [1]
array also_tint[1] = [0x707070]
across = 1
down = 2
high = 340.
heading = ''
stats data skip 1 using 2 nooutput
end = larger(1e-9, STATS_max)
