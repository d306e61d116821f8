# SPDX-License-Identifier: GPL-3.0-or-later
# Two tables of passes, `kvsim footprint --timeline` first: each column that both have must be the same in each row, and
# pool_bytes of the second the bytes in pages at the end. The first field is a policy, quoted where it has commas.
# Prints the first difference, or how many passes are alike; status 1: they are not.

# The row's fields without the policy, which goes to `policy`.
function fields(cell, rest) {
    rest = $0
    if (substr(rest, 1, 1) == "\"") {
        policy = substr(rest, 2, index(substr(rest, 2), "\"") - 1)
        rest = substr(rest, length(policy) + 4)
    } else {
        policy = substr(rest, 1, index(rest, ",") - 1)
        rest = substr(rest, length(policy) + 2)
    }
    return split(rest, cell, ",")
}

function differ(row, name, expected, is) {
    printf "%s, pass %s: %s is %s, kvsim says %s\n", policy, row, name, is, expected
    differs = 1
    exit 1
}

FNR == 1 {
    file++
    n = fields(head)
    for (i = 1; i <= n; i++)
        name_of[file, i] = head[i]
    width[file] = n
    next
}

file == 1 {
    fields(cell)
    expected[FNR, "policy"] = policy
    for (i = 1; i <= width[1]; i++)
        expected[FNR, name_of[1, i]] = cell[i]
    expected[FNR, "pool_bytes"] = expected[FNR, "per_head_end_bytes"]
    rows = FNR
}

file == 2 {
    fields(cell)
    if (policy != expected[FNR, "policy"])
        differ(FNR, "policy", expected[FNR, "policy"], policy)
    for (i = 1; i <= width[2]; i++) {
        name = name_of[2, i]
        if ((FNR, name) in expected && cell[i] != expected[FNR, name])
            differ(cell[1], name, expected[FNR, name], cell[i])
    }
    seen = FNR
}

END {
    if (differs)
        exit 1
    if (seen != rows || rows < 2) {
        printf "%d passes measured, kvsim says %d\n", seen, rows
        exit 1
    }
    printf "%d passes are the same\n", rows - 1
}
