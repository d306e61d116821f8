# SPDX-License-Identifier: GPL-3.0-or-later
# KV footprint of one request against the prefill chunk: a line for each policy, in both accountings.
#   series, line_of[], first[] and last[]: rows of the data, from 0

stats data skip 1 using 2 nooutput name 'CHUNK'
stats data skip 1 using (larger(number(3), number(4))) nooutput
title = 'KV footprint of one request against the prefill chunk'
actual_title = 'solid: actual, entries that are held'
paper_title = 'dashed: paper, the closed forms'
if (formats eq 'dumb') { rows = text_rows(lines, letters) }
# Powers of two around the chunks, no more of them than have room.
low = floor(log(CHUNK_min) / log(2) + 1e-9)
high = ceil(log(CHUNK_max) / log(2) - 1e-9)
hop = ceiling(high - low + 1, formats eq 'dumb' ? columns / 9 : 14)
letters = larger(letters, strlen(actual_title))
rows_of_legend = legend_rows(lines + 2, letters)
legend = 20 * rows_of_legend + 10
height = 750. + larger(0, rows_of_legend - 4) * 20

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    set logscale x 2
    set xrange [2. ** low / 1.2:2. ** high * 1.2]
    set yrange [0:108 * STATS_max]
    set xlabel 'prefill chunk, tokens'
    set ylabel 'KV footprint, % of keeping everything'
    set grid lt 1 lc rgb '#d8d8d8'
    set border 3
    set tics out nomirror
    unset mxtics
    set xtics ()
    do for [i = low:high:hop] {
        tic = thousands(2 ** i)
        set xtics add (tic 2 ** i)
    }
    if (text) {
        set title title . "\n" . about . "\n% of keeping everything; actual only: the entries held"
        unset grid
        set key outside below center horizontal
    } else {
        set multiplot
        set label 1 title . ', in actual and paper accounting' at screen 0.5, screen 1 - 18. / height center font big(format)
        set label 2 of_one at screen 0.5, screen 1 - 42. / height center font font_of(of_one, format)
        unset key
        set lmargin at screen 85. / width
        set rmargin at screen 1 - 45. / width
        set tmargin at screen 1 - 70. / height
        set bmargin at screen (legend + 62.) / height
    }
    # smooth unique: in the order of the chunks, whatever the order of the rows
    plot for [s = 1:series] data skip 1 every ::first[s]::last[s] using 2:(100 * $4) smooth unique \
             with linespoints lc rgb colour(line_of[s]) lw thick(line_of[s]) dt 1 pt mark(line_of[s]) \
             ps size(line_of[s]) title name[line_of[s]], \
         for [s = 1:(text ? 0 : series)] data skip 1 every ::first[s]::last[s] using 2:(100 * $3) smooth unique \
             with linespoints lc rgb colour(line_of[s]) lw 1.2 dt 2 pt hollow(line_of[s]) ps 1.6 * zoom notitle
    if (!text) {
        unset label
        unset border; unset tics; unset grid; unset xlabel; unset ylabel; unset logscale
        set lmargin at screen 0; set rmargin at screen 1
        set bmargin at screen 0; set tmargin at screen (legend + 5.) / height
        set key inside center center vertical Left reverse maxrows rows_of_legend
        set xrange [0:1]; set yrange [0:1]
        plot NaN notitle, \
             for [i = 1:lines] keyentry with linespoints lc rgb colour(i) lw thick(i) dt 1 pt mark(i) \
                 ps size(i) title name[i], \
             keyentry with linespoints lc rgb '#606060' lw 2 dt 1 pt 7 ps 1.2 * zoom title actual_title, \
             keyentry with linespoints lc rgb '#606060' lw 1.2 dt 2 pt 6 ps 1.6 * zoom title paper_title
        unset multiplot
        unset output
    }
}
