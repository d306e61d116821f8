# SPDX-License-Identifier: GPL-3.0-or-later
# Groups of horizontal bars, the first on top, so that names of any length can be read. Bars are cells of one column.
#   label_letters: of the longest label, if more than 20; ranks_of[]: then tone(i) is the colour of a mark by a name
marked = exists('ranks_of')
name_wide = larger(120, letters * letter + 25 + (marked ? 25 : 0))
rows_of_legend = legend_rows(series, exists('label_letters') ? label_letters : 20)
legend = 20 * rows_of_legend + 15
head = 70.
height = larger(750., head + legend + 62 + lines * (series * 13 + 6))
# Few groups would make bars like bricks: they keep to the top.
group_high = (height - head - legend - 62.) / larger(lines, 3)
group = group_high > 110 ? 88 / group_high : 0.8
bar = group / series
at(row, s) = -row + group / 2 - (s - 0.5) * bar
rows = lines * (series + 1) + 7
hash = '##################################################'
hash = hash . hash . hash . hash
line(row, s) = -((row - 1) * (series + 1) + s)

do for [format in formats] {
    eval terminal(format)
    text = format eq 'dumb'
    set style fill solid noborder
    set xrange [0:full * 1.12]
    if (text) {
        # A line of text for each bar, below the group's name.
        wide = larger(10, columns - 45)
        unset key; unset border; unset tics
        set title title . "\n" . about . "\n" . axis
        set lmargin 1; set rmargin 1; set tmargin 5; set bmargin 1
        set xrange [0:1]
        set yrange [-lines * (series + 1):0]
        do for [i = 1:lines] { set label i name[i] at first 0, first line(i, 0) left }
        plot for [s = 1:series] data skip 1 using (0):(line($1, s)):(sprintf('  %-22s%10s  %s', label[s], \
                 valid(field[s]) ? shown(scaled(column(field[s]))) : 'none', \
                 valid(field[s]) ? hash[1:int(wide * scaled(column(field[s])) / full + 0.5)] : '')) \
                 with labels left tc rgb tint[s]
    } else {
        set multiplot
        # Names are labels and no labels plot, which would take quotes and backslashes in them for its own.
        do for [i = 1:lines] { set label i + 2 name[i] at first 0, first -i right offset (marked ? -3 : -1), 0 }
        do for [i = 1:(marked ? lines : 0)] {
            set label lines + i + 2 '' at screen (name_wide - 13) / width, first -i point pt 5 ps 1.5 * zoom \
                lc rgb tone(i)
        }
        set label 1 title at screen 0.5, screen 1 - 18. / height center font big(format)
        set label 2 of_all at screen 0.5, screen 1 - 42. / height center font font_of(of_all, format)
        unset key
        set border 1
        set xtics out nomirror
        unset ytics
        set grid xtics lt 1 lc rgb '#d8d8d8'
        set xlabel axis
        set yrange [-larger(lines, 3) - 0.5:-0.5]
        set lmargin at screen name_wide / width
        set rmargin at screen 1 - 20. / width
        set tmargin at screen 1 - head / height
        set bmargin at screen (legend + 62.) / height
        plot for [s = 1:series] data skip 1 using (scaled(column(field[s])) / 2):(at($1, s)):(0): \
                 (scaled(column(field[s]))):(at($1, s) - bar / 2):(at($1, s) + bar / 2) \
                 with boxxyerror lc rgb tint[s] notitle, \
             for [s = 1:series] data skip 1 using (valid(field[s]) ? scaled(column(field[s])) : 0):(at($1, s)): \
                 (valid(field[s]) ? shown(scaled(column(field[s]))) : 'none') \
                 with labels left offset 0.5, 0 font small(format) notitle
        unset label
        unset border; unset tics; unset grid; unset xlabel
        set lmargin at screen 0; set rmargin at screen 1
        set bmargin at screen 0; set tmargin at screen (legend + 5.) / height
        set key inside center center vertical Left reverse maxrows rows_of_legend
        set xrange [0:1]; set yrange [0:1]
        plot NaN notitle, for [s = 1:series] keyentry with boxes fs solid noborder lc rgb tint[s] title label[s]
        unset multiplot
        unset output
    }
}
