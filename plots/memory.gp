# SPDX-License-Identifier: GPL-3.0-or-later
# What one request holds against the tokens it has seen: a line for each policy, a panel for each prefill chunk.
#   shown: 'bytes' or 'entries', the column that is drawn
#   series, line_of[], chunk_of[], first[] and last[]: rows of the data, from 0; same[]: it is the same at every chunk

# The chunks of the panels, and the series in each. More than six panels would be too small to read.
chunks = ''
do for [s = 1:series] {
    known = same[s] || strstrt(chunks . ' ', sprintf(' %d ', chunk_of[s])) > 0
    if (!known) { chunks = chunks . sprintf(' %d', chunk_of[s]) }
}
if (chunks eq '') { chunks = sprintf(' %d', chunk_of[1]) }
panels = words(chunks) > 6 ? 6 : words(chunks)
chunk(p) = int(word(chunks, p))
array inside[panels]
do for [p = 1:panels] {
    inside[p] = ''
    do for [s = 1:series] {
        if (same[s] || chunk_of[s] == chunk(p)) { inside[p] = inside[p] . sprintf(' %d', s) }
    }
}

stats data skip 1 using 3 nooutput
tokens = larger(1, STATS_max)

# Entries are counted as in 'entries held, millions'.
thousand(n) = n >= 0.5e6 ? 1e6 : n >= 500 ? 1e3 : 1.
counted(n) = n >= 0.5e6 ? ', millions' : n >= 500 ? ', thousands' : ''
in_bytes = shown eq 'bytes'
held = in_bytes ? 5 : 4
stats data skip 1 using held nooutput
unit = in_bytes ? unit_bytes(STATS_max) : thousand(STATS_max)
most = STATS_max / unit
title = (in_bytes ? 'KV memory of' : 'Entries held by') . ' one request while its tokens are seen'
axis = in_bytes ? 'KV in pages, ' . unit(STATS_max) : 'entries held' . counted(STATS_max)

# The pool, which is known in bytes alone.
pool = kv_pool_bytes / unit
share = pool / larger(1, concurrency)
in_range(x) = in_bytes && x <= 2 * most
pool_drawn = in_range(pool)
share_drawn = concurrency > 1 && in_range(share)
pool_text = in_bytes ? sprintf('KV pool %s, %s', bytes(kv_pool_bytes), kv_pool_origin) : ''
each = bytes(1. * kv_pool_bytes / larger(1, concurrency))
of_each = sprintf('a share of %s for each of %s requests', each, thousands(concurrency))
share_text = in_bytes && concurrency > 1 ? of_each : ''
more = panels < words(chunks) ? sprintf('%d more chunks are in the data', words(chunks) - panels) : ''
joined(a, b) = a . (strlen(a) && strlen(b) ? '; ' : '') . b
top = 1.08 * larger(most, larger(in_range(share) ? share : 0, pool_drawn ? pool : 0))
heading(p) = 'chunks of ' . thousands(chunk(p)) . ' tokens'

# What the legend holds besides the policies. (An element that is plotted no times would still take up room in it.)
also = 1
array also_title[3]
array also_dash[3] = [3, 0, 0]
also_title[1] = sprintf('end of the prompt: %s tokens', thousands(prompt))
if (pool_drawn) {
    also = also + 1
    also_title[also] = 'KV pool: ' . bytes(kv_pool_bytes)
    also_dash[also] = 1
}
if (share_drawn) {
    also = also + 1
    also_title[also] = sprintf('pool / %s requests: %s', thousands(concurrency), each)
    also_dash[also] = 2
}
if (formats eq 'dumb') { rows = text_rows(lines, letters) }
letters = larger(letters, 32)
rows_of_legend = legend_rows(lines + also, letters)
legend = 20 * rows_of_legend + 10
across = panels > 1 ? 2 : 1
down = ceiling(panels, across)
height = 750. + larger(0, rows_of_legend - 4) * 20 + larger(0, down - 2) * 300
below = joined(joined(pool_text, share_text), more)
head = strlen(below) ? 76. : 56.
wide = (width - 20.) / across
high = (height - head - legend) / down
gap = step(tokens / (formats eq 'dumb' ? columns / 13. : across > 1 ? 6. : 12.))

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    if (!text) {
        set multiplot
        set label 1 title at screen 0.5, screen 1 - 18. / height center font big(format)
        set label 2 of_one at screen 0.5, screen 1 - 42. / height center font font_of(of_one, format)
        set label 3 below at screen 0.5, screen 1 - 62. / height center
    }
    set xrange [0:tokens * 1.01]
    set yrange [0:top]
    set xlabel 'tokens seen, prompt and output'
    set ylabel axis
    set grid ytics lt 1 lc rgb '#d8d8d8'
    set border 3
    set tics out nomirror
    set xtics (0)
    do for [i = 1:int(1.01 * tokens / gap)] {
        tic = thousands(i * gap)
        set xtics add (tic i * gap)
    }
    set style arrow 1 nohead back lt 1 lc rgb '#707070' lw 1.7 dt 1
    set style arrow 2 nohead back lt 1 lc rgb '#707070' lw 1.7 dt 2
    set style arrow 3 nohead back lt 1 lc rgb '#707070' lw 1.7 dt 3
    set arrow from prompt, 0 to prompt, top as 3
    if (pool_drawn) { set arrow from 0, pool to graph 1, first pool as 1 }
    if (share_drawn) { set arrow from 0, share to graph 1, first share as 2 }
    do for [p = 1:panels] {
        if (text) {
            set key outside below center horizontal
            unset grid
            set title title . "\n" . about . "\n" . \
                      (in_bytes ? pool_text . "\n" . share_text . (share_drawn ? ', ---' : '') . "\n" : '') . \
                      heading(p) . ': ' . axis . '; | end of the prompt'
        } else {
            unset key
            x = 10 + (p - 1) % across * wide
            y = head + (p - 1) / across * high
            set lmargin at screen (x + 75) / width
            set rmargin at screen (x + wide - 25) / width
            set tmargin at screen 1 - (y + 30) / height
            set bmargin at screen 1 - (y + high - 60) / height
            set title heading(p) offset 0, -0.5
        }
        plot for [w in inside[p]] data skip 1 every ::first[int(w)]::last[int(w)] using 3:(column(held) / unit) \
                 with linespoints pointnumber 6 lc rgb colour(line_of[int(w)]) dt dash(line_of[int(w)]) \
                 lw thick(line_of[int(w)]) pt mark(line_of[int(w)]) ps size(line_of[int(w)]) title name[line_of[int(w)]]
        unset label
    }
    if (!text) {
        unset border; unset tics; unset grid; unset title; unset xlabel; unset ylabel; unset arrow
        set lmargin at screen 0; set rmargin at screen 1
        set bmargin at screen 0; set tmargin at screen (legend + 5.) / height
        set key inside center center vertical Left reverse maxrows rows_of_legend
        set xrange [0:1]; set yrange [0:1]
        plot NaN notitle, \
             for [i = 1:lines] keyentry with linespoints lc rgb colour(i) dt dash(i) lw thick(i) \
                 pt mark(i) ps size(i) title name[i], \
             for [i = 1:also] keyentry with lines lt 1 lc rgb '#707070' lw 1.7 dt also_dash[i] title also_title[i]
        unset multiplot
        unset output
    }
}
