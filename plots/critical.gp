# SPDX-License-Identifier: GPL-3.0-or-later
# Score against KV footprint: a panel for each task, a line for each policy, as figure 3 of arXiv 2506.17121 has them.
#   panels, panel_name[], full_score[], wanted[]: the score at the threshold
#   series, panel_of[], line_of[], first[] and last[]: rows of the data, from 0; crossing[], published[]: one, or -1

array inside[panels]
array crossed[panels]
array beside[panels]
array most[panels]
array least[panels]
besides = 0
do for [p = 1:panels] {
    inside[p] = ''
    crossed[p] = ''
    beside[p] = ''
    most[p] = full_score[p]
    least[p] = 0.
    do for [s = 1:series] {
        if (panel_of[s] == p) {
            if (first[s] <= last[s]) {
                inside[p] = inside[p] . sprintf(' %d', s)
                stats data skip 1 every ::first[s]::last[s] using 4 nooutput
                most[p] = larger(most[p], STATS_max)
                least[p] = smaller(least[p], STATS_min)
            }
            if (crossing[s] >= 0) { crossed[p] = crossed[p] . sprintf(' %d', s) }
            if (published[s] >= 0) { beside[p] = beside[p] . sprintf(' %d', s); besides = besides + 1 }
        }
    }
}
share = sprintf('%g %%', 0.01 * floor(1e4 * wanted[1] / full_score[1] + 0.5))
title = 'Score against KV footprint'
below = 'critical KV footprint: where a curve first falls below ' . share . ' of the full-cache score, from 100 % down'
axis = 'KV footprint, %'
# A series by its word; of an empty list gnuplot looks at one, too, though it draws none.
of(w) = strlen(w) ? int(w) : 1

# What the legend holds besides the policies.
also = besides ? 4 : 3
array also_title[4] = ['score of the full cache', share . ' of it', 'critical KV footprint', 'published one']
array also_colour[4] = [0x707070, 0xC00000, 0x707070, 0x707070]
array also_dash[4] = [2, 1, 3, 1]
letters = larger(letters, 24)
rows_of_legend = legend_rows(lines + also, letters)
legend = 20 * rows_of_legend + 10
across = panels < 5 ? panels : panels < 7 || panels == 9 ? 3 : 4
down = ceiling(panels, across)
head = 60.
high = panels > 2 ? 300. : 520.
foot = 40. # the title of the axis, below the lowest panels
height = head + legend + foot + down * high
wide = (width - 40.) / across
if (formats eq 'dumb') { rows = text_rows(lines + also, letters) }

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    if (!text) {
        set multiplot
        set label 1 title at screen 0.5, screen 1 - 18. / height center font big(format)
        set label 2 below at screen 0.5, screen 1 - 42. / height center
        set label 3 axis at screen 0.5, screen (legend + foot - 14) / height center
        set label 4 'score' at screen 16. / width, screen (legend + foot + (down * high) / 2) / height center rotate
    }
    set xrange [103:-3]
    set xtics 0, 20, 100
    set border 3
    set tics out nomirror
    set grid ytics lt 1 lc rgb '#e4e4e4'
    do for [p = 1:panels] {
        low = least[p] < 0 ? 1.08 * least[p] : 0.
        top = 1.08 * most[p]
        set yrange [low:top]
        unset arrow
        unset object
        if (text) {
            set key outside below center horizontal
            unset grid
            set title title . ', ' . panel_name[p] . "\n" . share . " of the full cache's score: -----; x: " . axis
            set arrow from 103, wanted[p] to -3, wanted[p] nohead dt 2
        } else {
            unset key
            x = 30 + (p - 1) % across * wide
            y = head + (p - 1) / across * high
            set lmargin at screen (x + 45) / width
            set rmargin at screen (x + wide - 8) / width
            set tmargin at screen 1 - (y + 32) / height
            set bmargin at screen 1 - (y + high - 35) / height
            set title panel_name[p] offset 0, -0.5
            set object 1 rectangle from 103, low to -3, wanted[p] fc rgb '#fff1f0' fs solid noborder behind
            set arrow 1 from 103, full_score[p] to -3, full_score[p] nohead lt 1 lc rgb also_colour[1] lw 1.4 dt 2
            set arrow 2 from 103, wanted[p] to -3, wanted[p] nohead lt 1 lc rgb also_colour[2] lw 1.4 dt (9, 5)
        }
        plot NaN notitle, \
             for [w in (text ? '' : crossed[p])] data skip 1 every ::larger(0, crossing[of(w)])::larger(0, crossing[of(w)]) \
                 using (100 * $3):4:(0):(low - $4) with vectors nohead lc rgb colour(line_of[of(w)]) lw 1.6 dt 3 notitle, \
             for [w in inside[p]] data skip 1 every ::first[of(w)]::last[of(w)] using (100 * $3):4 \
                 with linespoints lc rgb colour(line_of[of(w)]) dt dash(line_of[of(w)]) lw 1.7 \
                 pt mark(line_of[of(w)]) ps 0.8 * zoom title name[line_of[of(w)]], \
             for [w in (text ? '' : beside[p])] data skip 1 every ::larger(0, published[of(w)])::larger(0, published[of(w)]) \
                 using (100 * $3):4 with points pt 2 lw 2.2 ps 1.3 * zoom lc rgb colour(line_of[of(w)]) notitle
        unset label
    }
    if (!text) {
        unset border; unset tics; unset grid; unset title; unset arrow; unset object
        set lmargin at screen 0; set rmargin at screen 1
        set bmargin at screen 0; set tmargin at screen (legend + 5.) / height
        set key inside center center vertical Left reverse maxrows rows_of_legend
        set xrange [0:1]; set yrange [0:1]
        plot NaN notitle, \
             for [i = 1:lines] keyentry with linespoints lc rgb colour(i) dt dash(i) lw 1.7 \
                 pt mark(i) ps 0.8 * zoom title name[i], \
             keyentry with lines lt 1 lc rgb also_colour[1] lw 1.4 dt 2 title also_title[1], \
             keyentry with lines lt 1 lc rgb also_colour[2] lw 1.4 dt (9, 5) title also_title[2], \
             keyentry with lines lt 1 lc rgb also_colour[3] lw 1.6 dt 3 title also_title[3], \
             for [i = 4:also] keyentry with points pt 2 lw 2.2 ps 1.3 * zoom lc rgb also_colour[i] title also_title[i]
        unset multiplot
        unset output
    }
}
