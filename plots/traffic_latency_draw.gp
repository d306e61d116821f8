# SPDX-License-Identifier: GPL-3.0-or-later

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    eval begin_page
    do for [p = 1:3] {
        inside = ''
        do for [i = 1:lines] { if (last[series(p, i)] >= first[series(p, i)]) { inside = inside . sprintf(' %d', i) } }
        if (strlen(inside)) {
            eval all_ranges
            stats data skip 1 using (int($2) == p ? per[p] * $3 : NaN) nooutput
            # Over decades when it spans some; a latency of nothing has no place on such an axis.
            decades = STATS_min > 0 && STATS_max > 30 * STATS_min
            if (decades) { set logscale x; set xrange [0.9 * STATS_min:1.1 * STATS_max] } \
            else { set xrange [0:1.05 * larger(1e-9, STATS_max)] }
            set format x '%g'
            set yrange [0:103]
            set ytics 0, 20
            set xlabel (text ? '' : what[p] . ', ' . unit_of[p])
            set ylabel (text || p > 1 ? '' : '% of requests that are as fast')
            heading = text ? what[p] . ', ' . unit_of[p] . '; % of requests' : what[p]
            eval place(p)
            unset arrow
            set arrow from graph 0, first 99 to graph 1, first 99 nohead lc rgb also_tint[1] lw 1.2 dt 2
            plot NaN notitle, \
                 for [w in inside] data skip 1 every ::first[series(p, int(w))]::last[series(p, int(w))] \
                     using (per[p] * $3):(100 * $4) with linespoints pointnumber 6 lc rgb colour(int(w)) lw thick(int(w)) \
                     dt dash(int(w)) pt mark(int(w)) ps size(int(w)) title name[int(w)]
            unset label
        }
    }
    set format x
    eval end_page
}
