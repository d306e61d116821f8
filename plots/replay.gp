# SPDX-License-Identifier: GPL-3.0-or-later
# What the plots of a replay say of it, and the colours of its policies.
#   model, loop, layers, kv_heads, tokens, recorded_passes, block_size, complete, mass_of ('': unknown); one_chunk or 0
#   family_of[], rank_of[], ranks_of[] of lines: policies that differ in their budget are a family, the largest first

how = loop eq 'open' ? 'open loop (error unknown)' : loop . ' loop'
trace_of = sprintf('%s, %d layers x %d KV heads', model, layers, kv_heads)
seen = sprintf('%s tokens in %s recorded passes%s', thousands(tokens), thousands(recorded_passes), \
               complete ? '' : ' (incomplete)')
chunked = one_chunk ? sprintf('chunks of %s tokens', thousands(one_chunk)) : ''
joined(a, b) = a . (strlen(a) && strlen(b) ? '; ' : '') . b
of_trace = trace_of . '; ' . seen
about = trace_of . "\n" . joined(seen, chunked) # for a terminal, whose lines are short
of_one = joined(of_trace, chunked)
of_all = of_one

# A family has a colour, and its budgets are tones of it: the largest is the colour itself. So a policy has the same
# colour in all plots of a replay.
channel(c, bits, pale) = int((c >> bits & 255) + (255 - (c >> bits & 255)) * pale)
toned(c, pale) = channel(c, 16, pale) * 65536 + channel(c, 8, pale) * 256 + channel(c, 0, pale)
pale_of(rank, ranks) = ranks > 1 ? 0.55 * rank / (ranks - 1) : 0
tone(i) = toned(colour(family_of[i]), pale_of(rank_of[i], ranks_of[i]))
