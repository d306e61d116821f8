# SPDX-License-Identifier: GPL-3.0-or-later
# What the plots of a plan say of it.
#   model, device, kv_cache_dtype, layout, block_size, compaction, concurrency, kv_pool_bytes, kv_pool_origin
#   requests, and prompt and output tokens of the longest

machine = sprintf('%s, %s KV, on %s', model, kv_cache_dtype, device)
paging = sprintf('%s pages of %d entries%s', layout, block_size, compaction ? '' : ', compaction off')
lengths = sprintf('prompt %s, output %s tokens', thousands(prompt), thousands(output))
where = machine . '; ' . paging
about = machine . "\n" . paging . '; ' . lengths # for a terminal, whose lines are short
of_one = where . '; ' . lengths . (requests > 1 ? sprintf(' (the longest of %s requests)', thousands(requests)) : '')
of_all = where . '; ' . (requests > 1 ? sprintf('%s requests, the longest: %s', thousands(requests), lengths) : lengths)
