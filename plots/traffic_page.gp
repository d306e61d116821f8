# SPDX-License-Identifier: GPL-3.0-or-later
# A page of panels above a legend. The template sets title, line_2, line_3, across, down, high (pixels of a row of
# panels),
# also, also_title[], also_dash[], also_tint[]; then, for each format: eval begin_page, panels with eval place(i), eval end_page.

if (!exists('page_lines')) { page_lines = lines }
rows_of_legend = legend_rows(page_lines + also, letters)
legend = 20 * rows_of_legend + 10
head = strlen(line_3) ? 82. : 62.
height = head + down * high + legend
wide = (width - 20.) / across
if (formats eq 'dumb') { rows = text_rows(page_lines + also, letters) }

begin_page = 'set border 3; set tics out nomirror; set grid lt 1 lc rgb "#e4e4e4";' . \
    'if (!text) { set multiplot;' . \
    'set label 1 title at screen 0.5, screen 1 - 18. / height center font big(format);' . \
    'set label 2 line_2 at screen 0.5, screen 1 - 42. / height center font font_of(line_2, format);' . \
    'set label 3 line_3 at screen 0.5, screen 1 - 62. / height center font font_of(line_3, format) }'

# Before data of another panel are looked at: stats leaves out what is outside the axes.
all_ranges = 'set xrange [*:*]; set yrange [*:*]; unset logscale'

# Panel i, from 1; `heading` stands above it, and in a terminal all that is known.
place(i) = text ? 'unset grid; set key outside below center horizontal; set title title . "\n" . about . "\n" . heading' \
    : sprintf('unset key; set title heading offset 0, -0.5; set lmargin at screen %f; set rmargin at screen %f;', \
              (10 + (i - 1) % across * wide + 75) / width, (10 + (i - 1) % across * wide + wide - 25) / width) . \
      sprintf('set tmargin at screen %f; set bmargin at screen %f', \
              1 - (head + (i - 1) / across * high + 30) / height, 1 - (head + (i - 1) / across * high + high - 55) / height)

end_page = 'if (!text) { unset border; unset tics; unset grid; unset title; unset xlabel; unset ylabel; unset arrow;' . \
    'unset logscale; unset label; unset object; set lmargin at screen 0; set rmargin at screen 1;' . \
    'set bmargin at screen 0; set tmargin at screen (legend + 5.) / height;' . \
    'set key inside center center vertical Left reverse maxrows rows_of_legend; set xrange [0:1]; set yrange [0:1];' . \
    'plot NaN notitle, ' . \
    'for [i = 1:page_lines] keyentry with linespoints lc rgb colour(i) dt dash(i) lw thick(i) pt mark(i) ps size(i) title name[i],' . \
    'for [i = 1:also] keyentry with lines lc rgb also_tint[i] lw 1.7 dt also_dash[i] title also_title[i];' . \
    'unset multiplot; unset output }'
