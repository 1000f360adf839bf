"""Renders the chart with Helm's own engine: a JSON line of values in, a JSON line of manifests or of the refusal out.

A program of its own because the engine is a Go runtime, whose threads and signal handlers tests can do without.
"""

import json
import sys

import helm_python


def main(chart_path: str) -> None:
    with helm_python.Chart.load(chart_path) as chart:
        for line in sys.stdin:
            try:
                answer = {"manifests": chart.render(json.loads(line), name="shop", namespace="payments")}
            except helm_python.HelmError as refusal:
                answer = {"refusal": str(refusal)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
