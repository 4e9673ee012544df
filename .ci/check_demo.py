"""Check the figures of `relkernels demo --json` against their targets."""

import json
import sys

with open(sys.argv[1]) as file:
    figures = json.load(file)
symmetric, kernel = figures["symmetric"], figures["kernel"]
errors = [row["rel_error"] for row in kernel]
checks = {
    "auc >= 0.99": symmetric["auc"] >= 0.99,
    "precision_at_10 >= 0.97": symmetric["precision_at_10"] >= 0.97,
    "rel_error at width 512 <= 0.02": kernel[-1]["width"] == 512 and errors[-1] <= 0.02,
    "rel_error falls with width": errors == sorted(errors, reverse=True),
}
for target, met in checks.items():
    print(f"{'met ' if met else 'MISSED'} {target}")
print(json.dumps(figures))
sys.exit(not all(checks.values()))
