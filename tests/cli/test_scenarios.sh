# SPDX-License-Identifier: GPL-3.0-or-later
# configs/: what lies there runs as it is, without data from elsewhere, and means what its comments say.
tree=$PWD
. "${0%/*}/tap.sh"

# short CONFIG: what makes a scenario short
short() {
    case $1 in
    million) echo "--set workload.turns=4" ;;
    consumer) echo "--set workload.requests=12" ;;
    agents) echo "--set workload.duration=5min" ;;
    *) echo "--set workload.duration=3min" ;;
    esac
}
scenarios="rag chat completion agents four-gpus consumer million"
for name in $scenarios; do
    config=$tree/configs/$name.ini
    is "$name: says how it is run" "1" "$(grep -c "kvsim plan configs/$name.ini" "$config")"
    is "$name: explained" "" "$(awk '/^;/ { n++ } END { if (n < 5) print n " lines of comment" }' "$config")"
    is "$name: needs no files" "" "$(grep -nE '^ *(trace|profile|path) *=|\.\./' "$config")"
    # shellcheck disable=SC2046
    kv plan "$config" -q -o "$name" $(short $name) --set run.warmup=0s --set run.drain=0s
    is "$name: runs" "0 " "$rc $(cat err)"
    has "$name: times are not calibrated" "not calibrated" out
    is "$name: everything is served, or said" "" "$(awk -F'"' '/"complete": false/' "$name/summary.json")"
    is "$name: not a token more than there is room for" "" "$(column "$name/policies.csv" pool_peak_share | awk '$1 > 1')"
done
for config in "$tree"/configs/*.ini; do
    kv config show "$config"
    is "${config##*/}: is understood" 0 "$rc"
done

# Later turns hold all that was said, and the cache has it: what a turn computes is what is new.
is "million: later turns find the past" "" "$(awk -F, '$NF == "full" && $1 > 0 && $6 > 60' million/requests.csv)"
finish
