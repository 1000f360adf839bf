"""The dashboard: made from code, complete, and about metrics that exist. tests/deploy/test_prometheus.py asks its queries."""

import json
import runpy
from pathlib import Path

import pytest
import yaml

from tests.plugins.promql import known

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
CODE = runpy.run_path(str(FOLDER / "dashboard.py"))
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
UNITS = {"reqps", "ops", "s", "short"}


def test_it_is_what_its_code_makes():
    assert CODE["render"]() == (FOLDER / "dashboard.json").read_text(encoding="utf-8"), (
        "run: python deploy/grafana/dashboard.py"
    )


def test_its_rows_follow_the_way_of_a_request():
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Traffic",
        "Clients and limits",
        "Cache",
        "QuantaPay and the budget",
        "Webhooks",
        "Sessions",
        "Process",
    ]
    assert 12 <= len(PANELS) <= 20
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_no_panel_covers_another():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_panel_is_explained_and_asks_for_what_the_code_has(panel):
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
        assert known().faults(target["expr"]) == []
        for selector in known().selectors(target["expr"]):
            assert 'job=~"$job", instance=~"$instance"' in selector
        for label in target["legendFormat"].split("{{")[1:]:
            name = label.partition("}}")[0]
            assert name in target["expr"] or name in known().labels[
                known().selectors(target["expr"])[0].partition("{")[0]
            ] | {"instance"}


def test_grafana_is_led_to_prometheus_and_the_dashboard():
    [source] = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    scraped = yaml.safe_load((FOLDER.parent / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    [provider] = yaml.safe_load((FOLDER / "provisioning/dashboards/quantapay-gateway.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "job", "instance"]
