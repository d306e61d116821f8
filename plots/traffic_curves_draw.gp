# SPDX-License-Identifier: GPL-3.0-or-later

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    eval begin_page
    do for [p = 1:2] {
        eval all_ranges
        stats data skip 1 using (column(2 + p)) nooutput
        set xrange [0:end]
        set yrange [0:larger(1, 1.08 * STATS_max)]
        set xlabel (p == 2 && !text ? 'time from the first arrival, seconds' : '')
        set ylabel (text ? '' : 'requests ' . what[p])
        heading = text ? 'requests ' . what[p] : ''
        eval place(p)
        plot NaN notitle, \
             for [i = 1:lines] data skip 1 every ::first[i]::last[i] using 2:(column(2 + p)) \
                 with linespoints pointnumber 8 lc rgb colour(i) lw thick(i) dt dash(i) pt mark(i) ps size(i) title name[i]
        unset label
    }
    eval end_page
}
