# SPDX-License-Identifier: GPL-3.0-or-later
# What is left of each lane at the end: a map of layers and heads for each policy.
#   shown: 'kept_share' or 'mass_kept', the column that is drawn; mean[], least[] and most[] of it in each map
#   evicting, keeping: policies that have lanes to show, and those that keep everything; map_layers, map_heads

in_mass = shown eq 'mass_kept'
value = in_mass ? 5 : 4
title = (in_mass ? 'Attention mass kept in each head, ' : 'Entries kept in each head, ') . how
axis = in_mass ? '% of ' . (strlen(mass_of) ? mass_of : 'attention') : '% of the tokens seen'
policies_shown = evicting ? evicting : keeping
left_out = policies_shown > lines ? sprintf('%d of %d policies that evict, budgets spread', lines, policies_shown) : ''
all_kept = !evicting || !keeping ? '' : keeping == 1 ? 'one more policy keeps everything' \
         : sprintf('%d more policies keep everything', keeping)
measured = in_mass ? 'means over passes that evict' : 'at the end'
below = joined(joined(measured, left_out), all_kept)

# One scale for all maps, to a round number.
top = 0.
do for [i = 1:lines] { top = larger(top, 100 * most[i]) }
top = top <= 1 ? 1 : smaller(100, step(top))
across = lines > 4 || lines == 3 ? 3 : lines > 1 ? 2 : 1
down = ceiling(lines, across)
high = 105. + smaller(420, larger(map_layers * 9, down > 1 ? 190 : 330))
head = 82.
height = head + down * high + 5
bar_wide = 105.
wide = (width - bar_wide - 10) / across
gap = step(map_layers / 8.)
head_gap = step(map_heads / 8.)
# A pixel between lanes where there is room for it; else a little of each lane is below the next, for no gap to show.
half(pixels) = pixels > 8 ? 0.5 - 0.7 / pixels : 0.505
half_x = half((wide - 80) / map_heads)
half_y = half((high - 93) / map_layers)
# For a terminal: tens of a percentage, one letter a lane.
letter_of(x) = x >= 99.5 ? 'X' : sprintf('%d', int(x / 10))
summary(i) = sprintf('mean %.1f %%, lanes %.1f to %.1f %%', 100 * mean[i], 100 * least[i], 100 * most[i])

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    set xrange [-0.5:map_heads - 0.5]
    set yrange [map_layers - 0.5:-0.5]
    set xlabel 'head' offset 0, 0.4
    set ylabel 'layer' offset (text ? 0 : 1.2), 0
    set tics out nomirror
    set border 3
    set xtics 0, head_gap
    set ytics 0, gap
    unset key
    if (text) {
        wider = smaller(2, (columns - 12) / larger(1, map_heads))
        set xrange [-1:larger(map_heads, (columns - 14) / larger(1, wider))]
        set ytics 0, 1
        set xtics 0, larger(head_gap, wider < 2 ? 10 : 2), map_heads - 1
        # A line of text for each layer.
        set tmargin 7; set bmargin 3; set lmargin 7
        eval sprintf('set terminal dumb noenhanced %s size %d,%d', ansi ? 'ansi256' : 'mono', columns, map_layers + 12)
        set yrange [map_layers:-1]
        do for [i = 1:lines] {
            set title title . "\n" . about . "\n" . joined(left_out, all_kept) . "\n" . name[i] . "\n" . \
                      summary(i) . '; digits: tens of %, X: all'
            plot data skip 1 using ($1 == i && valid(value) ? $3 : NaN):2: \
                 (valid(value) ? letter_of(100 * column(value)) : '') with labels
        }
    } else {
        set multiplot
        set label 1 title at screen 0.5, screen 1 - 18. / height center font big(format)
        set label 2 of_one at screen 0.5, screen 1 - 42. / height center font font_of(of_one, format)
        set label 3 below at screen 0.5, screen 1 - 62. / height center
        set palette defined (0 '#440154', 1 '#3b528b', 2 '#21918c', 3 '#5ec962', 4 '#fde725')
        set cbrange [0:top]
        set cblabel axis offset 0.7, 0
        set colorbox user origin screen 1 - (bar_wide - 12) / width, screen 56. / height \
            size screen 18. / width, screen 1 - (head + 42 + 51 + 5) / height
        set object 1 rectangle from -0.5, -0.5 to map_heads - 0.5, map_layers - 0.5 \
            fc rgb '#e4e4e4' fs solid noborder behind
        do for [i = 1:lines] {
            x = (i - 1) % across * wide
            y = head + (i - 1) / across * high
            set lmargin at screen (x + 65) / width
            set rmargin at screen (x + wide - 15) / width
            set tmargin at screen 1 - (y + 42) / height
            set bmargin at screen 1 - (y + high - 51) / height
            set label 4 name[i] at graph 0.5, graph 1 offset 0, 1.9 center
            set label 5 summary(i) at graph 0.5, graph 1 offset 0, 0.8 center font small(format)
            plot data skip 1 using ($1 == i ? $3 : NaN):2:($3 - half_x):($3 + half_x):($2 - half_y):($2 + half_y): \
                 (100 * column(value)) with boxxyerror lc palette fs solid noborder
            unset label
            unset colorbox
        }
        unset multiplot
        unset output
    }
}
