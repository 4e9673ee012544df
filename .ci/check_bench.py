"""Check the JSON of `relkernels bench --quick --json FILE`: complete, and every result equal."""

import json
import sys

from relkernels.benchmarks import FAMILIES

with open(sys.argv[1]) as file:
    report = json.load(file)
rows = report["rows"]
checks = {
    "the run is complete": report["complete"],
    "every family has rows": {row["family"] for row in rows} == set(FAMILIES),
    "every result is equal": not any(row["unequal"] for row in rows),
    "ours is in every row, or reported absent": all(
        "relkernels" in row["contestants"] or "relkernels" in row["absent"] for row in rows
    ),
    "every contestant was compared": all(
        0 <= found["difference"] <= row["tolerance"] for row in rows for found in row["contestants"].values()
    ),
    "no time was measured": not any(
        "median" in found for row in rows for found in row["contestants"].values()
    ),
}
for what, met in checks.items():
    print(f"{'met ' if met else 'MISSED'} {what}")
print("missing:", report["missing"] or "no peer")
sys.exit(not all(checks.values()))
