# SPDX-License-Identifier: GPL-3.0-or-later

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    eval begin_page
    do for [p = 1:3] {
        eval all_ranges
        stats data skip 1 using (per[p] * column(2 + p)) nooutput
        decades = STATS_min > 0 && STATS_max > 30 * STATS_min
        set xrange [0:1.05 * x_max]
        low = 0.
        if (decades) { low = 0.8 * STATS_min; set logscale y }
        set yrange [low:1.1 * larger(1e-9, STATS_max)]
        set format y '%g'
        set xlabel (text ? '' : 'requests/s')
        set ylabel (text ? '' : 'p99 of ' . what[p] . ', ' . unit_of[p])
        heading = text ? 'p99 of ' . what[p] . ', ' . unit_of[p] : what[p]
        bent = ''
        do for [i = 1:lines] { if (knee[series(p, i)] >= 0) { bent = bent . sprintf(' %d', i) } }
        eval place(p)
        plot NaN notitle, \
             for [w in (text ? '' : bent)] data skip 1 \
                 every ::larger(0, knee[series(p, of(w))])::larger(0, knee[series(p, of(w))]) \
                 using 2:(per[p] * column(2 + p)):(0):(low - per[p] * column(2 + p)) with vectors nohead lc rgb colour(of(w)) lw 1.6 dt 3 notitle, \
             for [i = 1:lines] data skip 1 every ::first[i]::last[i] using 2:(per[p] * column(2 + p)) \
                 with linespoints lc rgb colour(i) lw thick(i) dt dash(i) pt mark(i) ps size(i) title name[i]
        unset label
    }
    set format y
    eval end_page
}
