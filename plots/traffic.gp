# SPDX-License-Identifier: GPL-3.0-or-later
# What the plots of traffic say of it, and their page: panels above a legend of policies.
#   model, device, kv_cache_dtype, layout, block_size, requests, replicas, time: what times rest on

joined(a, b) = a . (strlen(a) && strlen(b) ? '; ' : '') . b
served = sprintf('%s requests on %s', thousands(requests), replicas > 1 ? sprintf('%d replicas', replicas) : 'one engine')
of_run = sprintf('%s, %s KV, on %s; %s', model, kv_cache_dtype, device, served)
about = sprintf('%s, %s KV', model, kv_cache_dtype) . "\n" . served # for a terminal, whose lines are short
timed = 'time: ' . time
letters = larger(letters, 28)
