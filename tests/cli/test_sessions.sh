# SPDX-License-Identifier: GPL-3.0-or-later
# What is found again in the prefix cache: of a session its past, of a closed loop nothing.
. "${0%/*}/tap.sh"

# Sessions keep names of blocks of their own while others come and go.
cat >sessions.ini <<'INI'
[model]
name = Llama-3.1-8B
[hardware]
device = h200
[engine]
max_num_batched_tokens = 8192
[workload]
arrivals = poisson
rate = 5 /s
requests = 40
prompt_distribution = uniform
prompt_min = 200
prompt_max = 6000
output_tokens = 160
turns = 2
turn_prompt_tokens = 8000
think_time = 20 s
[plan]
baselines = false
[policy full]
kind = full
INI
kv plan sessions.ini -q -o sessions
# A second turn finds the whole blocks of its first, prompt and answer but for the last token, which is never fed.
is "sessions: each turn finds its own past, and no other" \
    "$(awk -F, 'NR > 1 && $3 > 8000 { n += int(($3 - 8001) / 16) * 16 } END { print n }' sessions/requests.csv)" \
    "$(column sessions/policies.csv cached_tokens)"

# Answers of any length are part of it.
kv plan sessions.ini -q -o short --set workload.output_tokens=17
is "sessions: short answers" \
    "$(awk -F, 'NR > 1 && $3 > 8000 { n += int(($3 - 8001) / 16) * 16 } END { print n }' short/requests.csv)" \
    "$(column short/policies.csv cached_tokens)"
kv plan sessions.ini -q -o prefix --set workload.shared_prefix=160
is "sessions: what all share is found by all but the first" $((39 * 160)) \
    "$(($(column prefix/policies.csv cached_tokens) - $(awk -F, 'NR > 1 && $3 > 8000 { n += int(($3 - 8001) / 16) * 16 } END { print n }' prefix/requests.csv)))"

# A policy that evicts shares nothing: what full finds is computed, and said.
kv plan sessions.ini -q -o lost --set 'policy snap.kind=snapkv' --set 'policy snap.keep=30%'
found=$(cell lost/policies.csv full cached_tokens)
is "sessions: hits that evictions lose" "0 $found" "$(cell lost/policies.csv full lost_hit_tokens) $(cell lost/policies.csv snap lost_hit_tokens)"
has "sessions: hits that evictions lose: said" "snap: its pages are not shared: it computes $found tokens" out
kv plan sessions.ini -q -o unknown --set engine.enable_prefix_caching=false
is "sessions: hits that nobody counted" "" "$(column unknown/policies.csv lost_hit_tokens)"

# Clients of a closed loop ask for something new each time.
kv plan sessions.ini -q -o closed --set workload.arrivals=closed --set workload.concurrency=3 --set workload.turns=1 --set workload.rate=auto
is "closed: runs" 0 "$rc"
is "closed: nothing is found again" 0 "$(column closed/policies.csv cached_tokens)"

finish
