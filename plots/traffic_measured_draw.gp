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
            x_max = larger(1e-9, 1.05 * STATS_max)
            stats data skip 1 using (int($2) == p ? per[p] * $4 : NaN) nooutput
            y_max = larger(x_max, 1.05 * STATS_max)
            # A few requests with a TTFT of next to nothing have errors of any size: the middle 98 % are shown.
            stats data skip 1 using (int($2) == p && valid(5) ? abs($5) : NaN) nooutput
            bound = larger(12, smaller(100, 110 * (STATS_records ? STATS_up_quartile * 4 : 0)))
            do for [below = 0:1] {
                set xrange [0:x_max]
                set yrange [*:*]
                if (below) { set yrange [-bound:bound] } else { set yrange [0:y_max] }
                set xlabel (text ? '' : below ? 'measured ' . what[p] . ', ' . unit_of[p] : '')
                set ylabel (text || (below && p > 1) ? '' : below ? 'error, % of measured' : 'simulated, ' . unit_of[p])
                heading = text ? what[p] . (below ? ': error, % of measured' : ': simulated against measured, ' . unit_of[p]) \
                        : below ? '' : what[p]
                unset arrow
                if (below) {
                    set arrow from 0, 0 to x_max, 0 nohead lc rgb also_tint[1] lw 1.4
                    set arrow from 0, 10 to x_max, 10 nohead lc rgb also_tint[1] lw 1.4 dt 3
                    set arrow from 0, -10 to x_max, -10 nohead lc rgb also_tint[1] lw 1.4 dt 3
                } else {
                    set arrow from 0, 0 to x_max, x_max nohead lc rgb also_tint[1] lw 1.4
                }
                eval place(3 * below + p)
                plot NaN notitle, \
                     for [w in inside] data skip 1 every ::first[series(p, int(w))]::last[series(p, int(w))] \
                         using (per[p] * $3):(below ? 100 * number(5) : per[p] * $4) with points lc rgb colour(int(w)) pt hollow(int(w)) \
                         ps 0.6 * zoom title name[int(w)]
                unset label
            }
        }
    }
    eval end_page
}
