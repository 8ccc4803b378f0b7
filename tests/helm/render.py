"""Run by the Python that has the Helm SDK: render a chart named on stdin, and answer in JSON."""

import json
import sys

import helm_python as helm


def main():
    asked = json.load(sys.stdin)
    try:
        with helm.Chart.load(asked["chart"]) as chart:
            chart.validate_schema(asked["values"])
            rendered = chart.render(
                asked["values"], name=asked["release"], namespace=asked["namespace"]
            )
            answer = {"rendered": rendered, "defaults": chart.values, "schema": chart.schema}
        report = helm.lint(
            asked["chart"], asked["values"], strict=True, namespace=asked["namespace"]
        )
        answer["lint"] = report["messages"]
    except helm.HelmError as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


main()
