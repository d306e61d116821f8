# SPDX-License-Identifier: GPL-3.0-or-later
# The page tax of a replay: bytes at its end, as entries and in pages of each layout; a group of bars for each policy.
#   in_place: without compaction, too, where a page goes when every entry in it went

title = 'The page tax: what is held at the end, ' . how
series = in_place ? 7 : 4
array field[7] = [2, 3, 6, 4, 7, 5, 8]
array label[7] = ['entries held', 'pages, per-head', 'per-head, in place', 'pages, per-layer', 'per-layer, in place', \
                  'pages, shared', 'shared, in place']
array tint[7] = [0x009E73, 0x56B4E9, 0xB4DDF5, 0xE69F00, 0xF4D48C, 0xD55E00, 0xEDB48A]
if (!in_place) {
    array field[4] = [2, 3, 4, 5]
    array label[4] = ['entries held', 'pages, per-head', 'pages, per-layer', 'pages, shared']
    array tint[4] = [0x009E73, 0x56B4E9, 0xE69F00, 0xD55E00]
}
stats data skip 1 using (larger(larger(larger(number(2), number(3)), larger(number(4), number(5))), \
                                larger(number(6), larger(number(7), number(8))))) nooutput
biggest = larger(1, STATS_max)
scaled(x) = x / unit_bytes(biggest)
shown(x) = sprintf('%.2f', x) . taxed(x, scaled(number(2)))
# How much more than the entries.
taxed(x, held) = held <= 0 || x <= 1.0005 * held ? '' \
               : sprintf(x < 1.1 * held ? ' (+%.1f %%)' : ' (+%.0f %%)', 100 * (x / held - 1))
full = scaled(biggest) * 1.06
axis = unit(biggest) . sprintf('; pages of %d entries; + %%: more than the entries held', block_size) . \
       (in_place ? '; in place: without compaction' : '')
left_out = policies > lines ? sprintf('%d of %d policies, budgets spread', lines, policies) : ''
of_all = joined(of_one, left_out)
