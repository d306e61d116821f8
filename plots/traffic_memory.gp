# SPDX-License-Identifier: GPL-3.0-or-later
# What the KV pool holds over time: the most within each span as a line, the mean below it, the pool's limit.
#   first[], last[]: rows of the data, from 0; pool[]: bytes of a replica's

stats data skip 1 using 3 nooutput
biggest = larger(1, STATS_max)
stats data skip 1 using 2 nooutput
end = larger(1e-3, STATS_max)
limit = 0.
do for [i = 1:lines] { limit = larger(limit, pool[i]) }
# A pool far above what is held would leave nothing to see.
near = limit <= 4 * biggest
top = 1.08 * larger(biggest, near ? limit : 0)
unit = unit_bytes(top)
unit_name = unit(top)
scale_s = end > 2 * 86400 ? 86400. : end > 2 * 3600 ? 3600. : end > 300 ? 60. : 1.
scale_name = end > 2 * 86400 ? 'days' : end > 2 * 3600 ? 'hours' : end > 300 ? 'minutes' : 'seconds'

# A panel for each policy: where the pool is full, lines upon each other say nothing.
panels = lines > 12 ? 12 : lines
title = 'KV memory while traffic is served'
line_2 = of_run
line_3 = joined(joined(timed, near ? '' : sprintf('KV pool: %s, far above', bytes(limit))), \
                panels < lines ? sprintf('%d of %d policies', panels, lines) : '')
of_which = replicas > 1 ? ', the fullest replica' : ''
heading = ''
across = panels > 1 ? panels > 6 ? 3 : 2 : 1
down = ceiling(panels, across)
high = down > 1 ? 300. : 480.
page_lines = 0 # each panel has its name above it
also = near ? 3 : 2
array also_title[3] = ['most within a span', 'mean of it', 'KV pool']
array also_dash[3] = [1, 3, 2]
array also_tint[3] = [0x707070, 0x707070, 0xC00000]
letters = 20
