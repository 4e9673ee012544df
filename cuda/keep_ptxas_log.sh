#!/bin/sh
# Runs the compiler given as arguments and keeps its messages beside the object it writes (-o).
for argument; do
    [ "$before" = -o ] && object=$argument
    before=$argument
done
[ -n "$object" ] || exec "$@"
"$@" 2>"$object.ptxas"
status=$?
grep -v '^ptxas info' "$object.ptxas" | grep -v 'bytes stack frame' >&2
exit $status
