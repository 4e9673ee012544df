"""Check the figures of `relkernels demo --json` against their targets."""

import json
import sys

with open(sys.argv[1]) as file:
    figures = json.load(file)
symmetric, kernel = figures["symmetric"], figures["kernel"]
crossdomain, preference = figures["crossdomain"], figures["preference"]
digit, modes = preference["largest_digit"], preference["modechoice"]
errors = [row["rel_error"] for row in kernel]
checks = {
    "auc >= 0.99": symmetric["auc"] >= 0.99,
    "precision_at_10 >= 0.97": symmetric["precision_at_10"] >= 0.97,
    "crossdomain recall@10 >= 1.5 x the better linear baseline's": (
        crossdomain["recall_at_10"] >= 1.5 * crossdomain["baseline_recall_at_10"]
    ),
    "crossdomain recall@1 above baseline and chance": (
        crossdomain["recall_at_1"] > crossdomain["baseline_recall_at_1"] > crossdomain["chance_recall_at_1"]
    ),
    "largest digit of 8, hard selection >= 0.95": digit["accuracy"] >= 0.95,
    "attention's error within its bound": all(
        row["error"] <= row["error_bound"] and row["accuracy"] >= row["guaranteed_accuracy"]
        for row in digit["attention"]
    ),
    "no preference is cyclic": digit["transitivity_violations"] == 0,
    "slope in the query within its bound": digit["slope_in_query"] <= digit["slope_bound"],
    "travellers' choices better than the conditional logit's": modes is not None
    and all(
        row["accuracy"] > row["baseline_accuracy"] and row["log_loss"] < row["baseline_log_loss"]
        for row in modes.values()
    ),
    "rel_error at width 512 <= 0.02": kernel[-1]["width"] == 512 and errors[-1] <= 0.02,
    "rel_error falls with width": errors == sorted(errors, reverse=True),
}
for target, met in checks.items():
    print(f"{'met ' if met else 'MISSED'} {target}")
print(json.dumps(figures))
sys.exit(not all(checks.values()))
