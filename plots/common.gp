# SPDX-License-Identifier: GPL-3.0-or-later
# What the plots share. The variables above are the result's: names and titles are strings in them, never commands.
#   base, data, formats, part: files; for formats = 'dumb', a terminal: columns, rows, ansi
#   lines, name[], letters of the longest name
# Templates set width and height in pixels before they draw.

clean = "reset; set encoding utf8; set datafile separator ','"
eval clean
width = 1200.
height = 750.

# What makes a terminal ready. Points and text come out alike in all of them by these sizes.
picture = "noenhanced background '#ffffff'"
terminal(f) = clean . '; ' . \
    (f eq 'png' ? sprintf("set terminal pngcairo %s font 'DejaVu Sans,11' size %d,%d", picture, width, height) \
   : f eq 'svg' ? sprintf("set terminal svg %s font 'DejaVu Sans,13' size %d,%d", picture, width, height) \
   : f eq 'pdf' ? sprintf("set terminal pdfcairo %s font 'DejaVu Sans,11' fontscale 0.7 ", picture) . \
                  sprintf('size %.3fin,%.3fin', width / 96, height / 96) \
   : sprintf("set terminal dumb noenhanced %s size %d,%d", ansi ? 'ansi256' : 'mono', columns, rows)) . \
    (f eq 'dumb' ? '' : sprintf("; set output '%s.%s%s'", base, f, part)) . \
    (f eq 'svg' ? '; zoom = 0.7; set key spacing 0.85; set xlabel offset 0, 0.6' \
   : f eq 'pdf' ? '; zoom = 0.75' : '; zoom = 1')
big(f) = f eq 'svg' ? 'DejaVu Sans,17' : 'DejaVu Sans,14'
small(f) = f eq 'svg' ? 'DejaVu Sans,11' : 'DejaVu Sans,9'

# Okabe and Ito's colours, which tell apart with any colour vision; yellow is left out, too pale for a line.
array hue[7] = [0x000000, 0xD55E00, 0x0072B2, 0x009E73, 0xCC79A7, 0xE69F00, 0x56B4E9]
# Filled and hollow marks of the same six shapes: colours and marks together repeat after 42 lines.
array filled[6] = [7, 5, 9, 11, 13, 15]
array open[6] = [6, 4, 8, 10, 12, 14]
colour(i) = hue[(i - 1) % 7 + 1]
mark(i) = filled[(i - 1) % 6 + 1]
hollow(i) = open[(i - 1) % 6 + 1]
dash(i) = (i - 1) / 7 % 5 + 1
# Of lines that lie upon each other the lower is wider and its marks are larger, so that both are seen.
under(i) = lines > 1 ? 1. * (lines - i) / (lines - 1) : 0
smaller(a, b) = a < b ? a : b
thick(i) = 1.7 + under(i) * smaller(3.4, 0.7 * (lines - 1))
size(i) = zoom * (0.9 + under(i) * smaller(1.1, 0.3 * (lines - 1)))

# 131072 -> 131,072
thousands(n) = n < 1000 ? sprintf('%d', n) \
             : n < 1000000 ? sprintf('%d,%03d', int(n) / 1000, int(n) % 1000) \
             : sprintf('%d,%03d,%03d', int(n) / 1000000, int(n) / 1000 % 1000, int(n) % 1000)
larger(a, b) = a > b ? a : b
number(c) = valid(c) ? column(c) : 0 # for extents: an empty cell counts as nothing
ceiling(n, d) = (int(n) + int(d) - 1) / int(d)
# A round step that is at least x.
decade(x) = 10. ** floor(log10(x))
step(x) = x <= 1 ? 1 : decade(x) * nice(x / decade(x), x)
nice(m, x) = m <= 1 ? 1 : m <= 2 ? 2 : m <= 2.5 && x > 10 ? 2.5 : m <= 5 ? 5 : 10
# The unit in which these bytes are a handy number.
unit_bytes(n) = n >= 0.5 * 2 ** 30 ? 2. ** 30 : n >= 0.5 * 2 ** 20 ? 2. ** 20 : 2. ** 10
unit(n) = n >= 0.5 * 2 ** 30 ? 'GiB' : n >= 0.5 * 2 ** 20 ? 'MiB' : 'KiB'
bytes(n) = sprintf('%.2f %s', n / unit_bytes(n), unit(n))

# Pixels a letter takes in names; entries of a legend beside each other, no more than gnuplot puts there, and its rows.
letter = 8
legend_columns(letters) = larger(1, int((width - 40) / (letters * 9 + 90)))
legend_rows(n, letters) = ceiling(n, legend_columns(letters))
# Lines of a text terminal for a plot whose legend has n entries.
text_rows(n, letters) = larger(rows, 25 + ceiling(n, larger(1, int(columns / (letters + 12)))))
font_of(text, f) = strlen(text) > 150 ? small(f) : ''
