"""The page of metrics names what a relay tells Prometheus, and every reason of a refusal."""

import re

from offload_relay.protocol import LIMITS, CloseCode
from offload_relay.server.endpoints import Directory
from offload_relay.server.metrics import Metrics
from tests.docs import pages

TEXT = (pages.DOCS / "reference" / "metrics.md").read_text("utf-8")
ROWS = {row[0].strip("`"): row for row in pages.rows(TEXT) if row[0].startswith("`offload_relay_")}


def rendered():
    """Return the text of a relay that has counted something of everything."""
    metrics = Metrics(Directory(LIMITS))
    metrics.refused.labels("lease").inc()
    metrics.dials.labels("site").inc()
    metrics.requests.labels("2xx").inc()
    return metrics.render().decode()


def test_each_metric_is_described_with_its_type_and_labels_and_no_other_is():
    text = rendered()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels = {}
    for name, inside in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r"(\w+)=", inside))
    assert {name: row[1] for name, row in ROWS.items()} == types
    assert {name: set(pages.code(row[2])) for name, row in ROWS.items()} == labels


def test_each_reason_of_a_refusal_is_described_and_no_other_is():
    table = pages.sections(TEXT, 3)["Reasons of refusals"]
    told = {word for row in pages.rows(table)[1:] for word in pages.code(row[0])}
    of_sources = set()
    for text in pages.sources().values():
        of_sources |= set(re.findall(r"\brefuse\(\"(\w+)\"\)", text))
    server = "".join(t for n, t in pages.sources().items() if n.startswith("offload_relay/server"))
    closed = {code.name.lower() for code in CloseCode if f"CloseCode.{code.name}" in server}
    dial = re.findall(r"\b([45]\d\d)\b", pages.sources()["offload_relay/server/dialport.py"])
    # h11 itself finds 431 and 501 (heads that are too long; codings that nobody knows).
    gateway = {"431", "501", *re.findall(r"\bRefusedRequestError\((\d{3})", server)}
    ports = {f"dial_{status}" for status in dial} | {f"gateway_{status}" for status in gateway}
    assert told == closed | of_sources | ports
