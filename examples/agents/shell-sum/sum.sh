# Adds numbers: stdin {"numbers": [1, 2, 3]}, stdout {"sum": 6, "count": 3}.
# Corral hands over valid JSON only, so it is enough to find the list and look at its items.
set -eu

tr -d '[:space:]' | awk '
function fail(reason) { print "cannot add: " reason > "/dev/stderr"; exit 1 }

{
    if (!match($0, /"numbers":\[[^]]*\]/)) fail("\"numbers\" must be a list of numbers")
    count = split(substr($0, RSTART + 11, RLENGTH - 12), items, ",")
    for (i = 1; i <= count; i++) {
        if (items[i] !~ /^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$/) fail(items[i] " is not a number")
        sum += items[i]
    }
    printf (sum == int(sum) ? "{\"sum\": %.0f, \"count\": %d}\n" : "{\"sum\": %.15g, \"count\": %d}\n"), sum, count
}'
