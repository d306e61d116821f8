# SPDX-License-Identifier: GPL-3.0-or-later
# Attention mass against KV footprint, from 100 % on the left as in figure 3 of arXiv 2506.17121; a curve for each
# family of policies, whose points are its budgets. Beside it what survives of marked tokens. Neither is a task score.
#   first[], last[], ranks[]: rows of the data, from 0, and how many budgets; families: with those that are not drawn
#   in_mass_kept, in_mass_inner, in_mass_later, in_marks_kept: the curves of which it is known

has_mass_kept = strlen(in_mass_kept)
has_mass_inner = strlen(in_mass_inner)
has_mass_later = strlen(in_mass_later)
has_marks_kept = strlen(in_marks_kept)
# A curve by its word. Of an empty list gnuplot looks at one, too, though it draws none: in a column that is known.
of(w) = strlen(w) ? int(w) : 1
inner_column = has_mass_inner ? 5 : 3
later_column = has_mass_later ? 6 : 3

title = (has_mass_kept ? 'Attention mass' . (has_marks_kept ? ' and marked tokens' : '') : 'Marked tokens') . \
        ' kept against KV footprint, ' . how
left_out = families > lines ? sprintf('the first %d of %d kinds of policy', lines, families) : ''
of_mass = strlen(mass_of) ? 'mass: share of ' . mass_of . ', mean over lanes and passes that evict' : ''
below = joined(of_mass, left_out)
axis = 'KV footprint (actual), % of keeping everything'
array panel_title[2] = ['attention mass kept', 'marked tokens kept at the end']
panels = ''
if (has_mass_kept) { panels = panels . ' 1' }
if (has_marks_kept) { panels = panels . ' 2' }
across = words(panels)

# A curve's tones are its points': a family's largest budget has its colour. Families beyond the colours have dashes.
tone_at(f, rank) = toned(colour(f), pale_of(rank, ranks[f]))
stats data skip 1 using 3 nooutput
widest = larger(100, 100 * STATS_max)

large(f) = 0.5 * zoom + 0.7 * size(f)

# What the legend holds besides the families.
also = 0
array also_title[3]
array also_dash[3]
array also_mark[3]
if (has_mass_kept) { also = also + 1; also_title[also] = 'mass kept'; also_dash[also] = 1; also_mark[also] = 7 }
if (has_mass_kept && has_mass_inner) {
    also = also + 1
    also_title[also] = 'without first and newest tokens'
    also_dash[also] = 2
    also_mark[also] = 6
}
if (has_mass_kept && has_mass_later) {
    also = also + 1
    also_title[also] = 'mass of later queries'
    also_dash[also] = 3
    also_mark[also] = 2
}
letters = larger(letters, 31)
rows_of_legend = legend_rows(lines + also, letters)
legend = 20 * rows_of_legend + 10
height = 700. + larger(0, rows_of_legend - 4) * 20
head = strlen(below) ? 82. : 62.
wide = (width - 20.) / across
if (formats eq 'dumb') { rows = text_rows(lines, letters) }

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    set xrange [1.03 * widest:-0.03 * widest]
    set yrange [0:104]
    set xtics 0, step(widest / 5)
    set ytics 0, 20
    set border 3
    set tics out nomirror
    set grid lt 1 lc rgb '#e4e4e4'
    set xlabel axis
    if (!text) {
        set multiplot
        set label 1 title at screen 0.5, screen 1 - 18. / height center font big(format)
        set label 2 of_one at screen 0.5, screen 1 - 42. / height center font font_of(of_one, format)
        set label 3 below at screen 0.5, screen 1 - 62. / height center
    }
    do for [panel = 1:words(panels)] {
        marks = word(panels, panel) eq '2'
        if (text) {
            set key outside below center horizontal
            unset grid
            set title title . "\n" . about . "\n" . panel_title[1 + marks] . ', %' . "\n" . left_out
        } else {
            unset key
            x = 10 + (panel - 1) * wide
            set ylabel panel_title[1 + marks] . ', %'
            set lmargin at screen (x + 75) / width
            set rmargin at screen (x + wide - 25) / width
            set tmargin at screen 1 - (head + 8) / height
            set bmargin at screen (legend + 65) / height
        }
        value = marks ? 7 : 4
        known = marks ? in_marks_kept : in_mass_kept
        plot NaN notitle, \
             for [w in (text || marks ? '' : in_mass_later)] data skip 1 every ::first[of(w)]::last[of(w)] \
                 using (100 * $3):(100 * column(later_column)) with linespoints lc rgb colour(of(w)) lw 1.6 dt 3 pt 2 \
                 ps 0.6 * zoom notitle, \
             for [w in (text || marks ? '' : in_mass_inner)] data skip 1 every ::first[of(w)]::last[of(w)] \
                 using (100 * $3):(100 * column(inner_column)) with linespoints lc rgb colour(of(w)) lw 1.3 dt 2 \
                 pt hollow(of(w)) ps 0.8 * zoom notitle, \
             for [w in known] data skip 1 every ::first[of(w)]::last[of(w)] using (100 * $3):(100 * column(value)) \
                 with lines lc rgb colour(of(w)) lw thick(of(w)) notitle, \
             for [w in known] data skip 1 every ::first[of(w)]::last[of(w)] \
                 using (100 * $3):(100 * column(value)):(tone_at(of(w), $2)) \
                 with points lc rgb variable pt mark(of(w)) ps large(of(w)) notitle, \
             for [f = 1:(text ? lines : 0)] keyentry with points lc rgb colour(f) pt mark(f) title name[f]
        unset label
    }
    if (!text) {
        unset border; unset tics; unset grid; unset title; unset xlabel; unset ylabel
        set lmargin at screen 0; set rmargin at screen 1
        set bmargin at screen 0; set tmargin at screen (legend + 5.) / height
        set key inside center center vertical Left reverse maxrows rows_of_legend
        set xrange [0:1]; set yrange [0:1]
        plot NaN notitle, \
             for [i = 1:lines] keyentry with linespoints lc rgb colour(i) lw thick(i) \
                 pt mark(i) ps large(i) title name[i], \
             for [i = 1:also] keyentry with linespoints lt 1 lc rgb '#606060' lw 1.6 dt also_dash[i] pt also_mark[i] \
                 ps 0.8 * zoom title also_title[i]
        unset multiplot
        unset output
    }
}
