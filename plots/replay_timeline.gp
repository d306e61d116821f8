# SPDX-License-Identifier: GPL-3.0-or-later
# What is held while tokens are seen, within passes and at their ends, and the attention mass that it has; a line for
# each policy.
#   first[], last[]: rows of the data, from 0; prompt: tokens of it, 0 when unknown; each: passes that are one point
#   in_bytes, in_mass_held, in_mass_kept: the lines of which it is known

has_held = strlen(in_mass_held)
has_kept = strlen(in_mass_kept)
# A line by its word. Of an empty list gnuplot looks at one, too, though it draws none: in a column that is known.
of(w) = strlen(w) ? int(w) : 1
held_column = has_held ? 4 : 3

title = 'KV memory' . (has_held || has_kept ? ' and attention mass' : '') . ' while tokens are seen, ' . how
left_out = policies > lines ? sprintf('%d of %d policies, budgets spread', lines, policies) : ''
thinned = each > 1 ? sprintf('of each %s passes the most within them, and the end', thousands(each)) : ''
of_mass = (has_held || has_kept) && strlen(mass_of) ? 'mass: share of ' . mass_of . ', mean over lanes' : ''
below = joined(joined(of_mass, thinned), left_out)
stats data skip 1 using 2 nooutput
last_token = larger(1, STATS_max)
stats data skip 1 using 3 nooutput
biggest = larger(1, STATS_max)
unit = unit_bytes(biggest)
panels = has_held || has_kept ? 2 : 1
array panel_title[2] = ['KV in pages, ' . unit(biggest), 'attention mass, %']

# What the legend holds besides the policies.
also = 0
array also_title[3]
array also_dash[3]
if (prompt > 0) {
    also = also + 1
    also_title[also] = sprintf('end of the prompt: %s tokens', thousands(prompt))
    also_dash[also] = 3
}
if (has_kept) { also = also + 1; also_title[also] = 'mass of what a pass leaves'; also_dash[also] = 1 }
if (has_held) { also = also + 1; also_title[also] = 'mass of what it finds'; also_dash[also] = 2 }
letters = larger(letters, 32)
rows_of_legend = legend_rows(lines + also, letters)
legend = 20 * rows_of_legend + 10
head = strlen(below) ? 82. : 62.
high = panels > 1 ? 330. : 560.
height = head + panels * high + 20 + legend
gap = step(last_token / (formats eq 'dumb' ? columns / 13. : 12.))
if (formats eq 'dumb') { rows = text_rows(lines, letters) }

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    set xrange [0:last_token * 1.01]
    set border 3
    set tics out nomirror
    set grid ytics lt 1 lc rgb '#e4e4e4'
    set xtics (0)
    do for [i = 1:int(1.01 * last_token / gap)] {
        tic = thousands(i * gap)
        set xtics add (tic i * gap)
    }
    if (!text) {
        set multiplot
        set label 1 title at screen 0.5, screen 1 - 18. / height center font big(format)
        set label 2 of_one at screen 0.5, screen 1 - 42. / height center font font_of(of_one, format)
        set label 3 below at screen 0.5, screen 1 - 62. / height center
    }
    do for [panel = 1:panels] {
        mass = panel == 2
        top = mass ? 104 : 1.08 * biggest / unit
        set yrange [0:top]
        unset arrow
        if (prompt > 0) { set arrow from prompt, 0 to prompt, top nohead back lt 1 lc rgb '#707070' lw 1.7 dt 3 }
        if (text) {
            set key outside below center horizontal
            unset grid
            set title title . "\n" . about . "\n" . panel_title[panel] . (prompt > 0 ? '; | end of the prompt' : '') . \
                      "\n" . left_out
        } else {
            unset key
            y = head + (panel - 1) * high
            set ylabel panel_title[panel]
            set lmargin at screen 85. / width
            set rmargin at screen 1 - 30. / width
            set tmargin at screen 1 - (y + 10) / height
            set bmargin at screen 1 - (y + high - 35) / height
        }
        if (panel == panels) { set xlabel 'tokens seen, prompt and output' }
        value = !mass ? 3 : has_kept ? 5 : 4
        scale = mass ? 100. : 1. / unit
        known = !mass ? in_bytes : has_kept ? in_mass_kept : in_mass_held
        plot NaN notitle, \
             for [w in (mass && has_kept && !text ? in_mass_held : '')] data skip 1 every ::first[of(w)]::last[of(w)] \
                 using 2:(100 * column(held_column)) with lines lc rgb tone(of(w)) lw 1.2 dt 2 notitle, \
             for [w in known] data skip 1 every ::first[of(w)]::last[of(w)] using 2:(scale * column(value)) \
                 with linespoints pointnumber 8 lc rgb tone(of(w)) lw thick(of(w)) pt mark(family_of[of(w)]) \
                 ps 0.8 * size(of(w)) title name[of(w)]
        unset label
    }
    if (!text) {
        unset border; unset tics; unset grid; unset title; unset xlabel; unset ylabel; unset arrow
        set lmargin at screen 0; set rmargin at screen 1
        set bmargin at screen 0; set tmargin at screen (legend + 5.) / height
        set key inside center center vertical Left reverse maxrows rows_of_legend
        set xrange [0:1]; set yrange [0:1]
        plot NaN notitle, \
             for [i = 1:lines] keyentry with linespoints lc rgb tone(i) lw thick(i) pt mark(family_of[i]) \
                 ps 0.8 * size(i) title name[i], \
             for [i = 1:also] keyentry with lines lt 1 lc rgb '#606060' lw 1.6 dt also_dash[i] title also_title[i]
        unset multiplot
        unset output
    }
}
