# SPDX-License-Identifier: GPL-3.0-or-later

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    eval begin_page
    set xrange [0:1.08 * x_max / unit]
    set yrange [0:1.12 * y_max]
    set xlabel (pareto ? 'peak of the KV pool, ' . unit(x_max) : \
        sprintf('KV footprint (%s), %% of keeping everything', all_paper ? 'paper' : 'paper; actual where it has no form'))
    set ylabel (text ? '' : pareto ? 'output tokens/s' : 'GiB s in pages, ' . layout . ' tables')
    heading = text ? (pareto ? 'output tokens/s' : 'GiB s in pages, ' . layout . ' tables') : ''
    eval place(1)
    plot NaN notitle, \
         for [k = 1:pareto] data skip 1 using ($4 == 1 ? $2 / unit : NaN):3 smooth unique \
             with lines lc rgb also_tint[1] lw 1.5 dt 3 notitle, \
         for [k = 1:!pareto] '+' using (x_max / unit * $0 / 99.):(y_of_widest * $0 / 99.) \
             with lines lc rgb also_tint[1] lw 1.5 dt 3 notitle, \
         for [i = 1:lines] data skip 1 using ($1 == i ? $2 / unit : NaN):3 \
             with points lc rgb colour(i) pt mark(i) ps 0.8 + size(i) title name[i]
    eval end_page
}
