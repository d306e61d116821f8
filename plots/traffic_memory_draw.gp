# SPDX-License-Identifier: GPL-3.0-or-later

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    eval begin_page
    do for [i = 1:panels] {
        set xrange [0:end / scale_s]
        set yrange [0:top / unit]
        set xlabel (i > panels - across || text ? 'time, ' . scale_name : '')
        set ylabel (text || i % across != 1 % across ? '' : 'KV in pages, ' . unit_name)
        heading = name[i] . (text ? ': KV in pages, ' . unit_name . of_which . (near ? '; - the pool' : '') : '')
        eval place(i)
        unset arrow
        if (near) { set arrow from 0, pool[i] / unit to end / scale_s, pool[i] / unit nohead lc rgb also_tint[3] lw 1.7 dt 2 }
        plot NaN notitle, \
             for [k = 1:!text] data skip 1 every ::first[i]::last[i] using ($2 / scale_s):($4 / unit) \
                 with steps lc rgb colour(i) lw 1.2 dt 3 notitle, \
             data skip 1 every ::first[i]::last[i] using ($2 / scale_s):($3 / unit) \
                 with steps lc rgb colour(i) lw 1.7 title (text ? 'most within a span' : '')
        unset label
    }
    eval end_page
}
