"""The Helm chart: what it renders, and what it refuses to render."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from gateway import __version__
from gateway.settings.model import variables
from tests.plugins.gateway import API_KEY, QUOTE_SECRET, WEBHOOK_SECRET, example_config
from tests.plugins.processes import clean_environ, until

ROOT = Path(__file__).parents[3]
CUSTOM = Path(__file__).with_name("schemas")
OLDEST, NEWEST = "1.27", "1.37"
"""Releases of Kubernetes: the oldest that Chart.yaml takes, and the newest whose schemas are installed."""


def shop_values() -> dict[str, Any]:
    """All that can be on or off, on, with a gateway.yaml that refers to secrets."""
    config = example_config()
    for number, client in enumerate(config["clients"][2:]):
        client["quote_secret"] = f"${{file:quote-secret-{number}}}"
    return {
        "config": {**config, "payments": {"amount_tolerance_percent": 0.5}},
        "publicUrl": "https://pay.shop.example",
        "trustedProxies": ["10.0.0.0/8", "2001:db8::/32"],
        "workers": 2,
        "imagePullSecrets": ["registry"],
        "priorityClassName": "payments",
        "nodeSelector": {"pool": "payments"},
        "tolerations": [{"key": "pool", "operator": "Exists"}],
        "podAnnotations": {"team": "payments"},
        "service": {"annotations": {"team": "payments"}},
        "monitoring": {"labels": {"release": "prometheus"}},
        "extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "quantapay-gateway"}],
        "networkPolicy": {
            "callers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
            "subscribers": [{"to": [{"podSelector": {"matchLabels": {"app": "orders"}}}], "ports": [8443]}],
        },
    }


def faults_of(thing: dict[str, Any], release: str) -> list[str]:
    """What a cluster would find wrong with an object, unknown fields included."""
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    custom = CUSTOM / f"{thing['kind'].lower()}.json"
    if custom.exists():
        return [error.message for error in Draft202012Validator(json.loads(custom.read_text())).iter_errors(thing)]
    try:
        kubernetes.validate(thing, release, strict=True)
    except kubernetes.ValidationError as error:
        return [error.message]
    return []


@pytest.mark.parametrize("release", [OLDEST, NEWEST])
@pytest.mark.parametrize("values", [{}, shop_values()], ids=["the least", "the most"])
def test_every_object_fits_the_schemas_of_kubernetes(render, values: dict[str, Any], release: str) -> None:
    rendered = render(**values)
    assert rendered.kinds() == [
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Service",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    ]
    assert [fault for thing in rendered.objects for fault in faults_of(thing, release)] == []


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("Deployment", lambda spec: spec["template"]["spec"].update(enableServiceLink=False)),
        ("ServiceMonitor", lambda spec: spec["endpoints"][0].update(intervall="15s")),
        ("PrometheusRule", lambda spec: spec["groups"][0]["rules"][0].pop("expr")),
    ],
)
def test_the_schemas_find_a_misspelt_or_missing_field(render, kind: str, spoil: Callable[[Any], None]) -> None:
    thing = render().one(kind)
    spoil(thing["spec"])
    assert faults_of(thing, NEWEST)


def test_what_can_be_switched_off_is_then_not_there(render) -> None:
    off = {"enabled": False}
    rendered = render(autoscaling=off, monitoring=off, networkPolicy=off, replicas=3)
    assert set(rendered.kinds()) == {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"}
    assert rendered.one("Deployment")["spec"]["replicas"] == 3


def test_the_number_of_replicas_is_the_autoscalers_to_say(render) -> None:
    rendered = render(autoscaling={"minReplicas": 3, "maxReplicas": 9})
    assert "replicas" not in rendered.one("Deployment")["spec"], "an upgrade would set it back"
    spec = rendered.one("HorizontalPodAutoscaler")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 9)
    assert spec["scaleTargetRef"]["name"] == rendered.one("Deployment")["metadata"]["name"]


@pytest.mark.parametrize(("autoscaling", "most"), [({"maxReplicas": 9}, "9"), ({"enabled": False}, "4")])
def test_without_redis_each_replica_assumes_the_most_that_there_may_be(
    render, autoscaling: dict[str, Any], most: str
) -> None:
    assert render(autoscaling=autoscaling, replicas=4).environ["GATEWAY_REPLICAS"] == most


def test_the_pod_can_do_as_little_as_possible(render) -> None:
    rendered = render()
    pod, container = rendered.pod, rendered.container
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001, "as in the Dockerfile"
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert rendered.one("ServiceAccount")["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_only_a_small_directory_for_the_moment_can_be_written_to(render) -> None:
    rendered = render()
    writable = [mount["mountPath"] for mount in rendered.container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/tmp"]
    (tmp,) = (volume for volume in rendered.pod["volumes"] if volume["name"] == "tmp")
    assert tmp["emptyDir"]["sizeLimit"]


def test_the_probes_ask_what_means_alive_and_what_means_ready(render) -> None:
    rendered = render()
    ports = {port["name"]: port["containerPort"] for port in rendered.container["ports"]}
    assert ports == {"http": 8080, "ops": 9464}
    asked = {name: rendered.container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert {probe["port"] for probe in asked.values()} == {"http"}


def test_both_listeners_can_be_reached_from_outside_the_pod(render) -> None:
    environ = render().environ
    assert (environ["GATEWAY_HOST"], environ["GATEWAY_OPS_HOST"]) == ("0.0.0.0", "0.0.0.0")


def test_a_rolling_update_takes_no_replica_away_before_the_new_one_is_ready(render) -> None:
    rendered = render()
    strategy = rendered.one("Deployment")["spec"]["strategy"]
    assert (strategy["type"], strategy["rollingUpdate"]["maxUnavailable"]) == ("RollingUpdate", 0)
    assert rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize(("drain", "timeout", "grace"), [(5, 10, 20), (0.5, 2.25, 8), (60, 30, 95)])
def test_the_grace_period_is_above_what_the_gateway_may_take(render, drain: float, timeout: float, grace: int) -> None:
    rendered = render(drainSeconds=drain, quantapay={"timeoutSeconds": timeout})
    assert rendered.pod["terminationGracePeriodSeconds"] == grace > drain + timeout + 2
    assert float(rendered.environ["GATEWAY_DRAIN_SECONDS"]) == drain
    assert float(rendered.environ["QUANTAPAY_TIMEOUT"]) == timeout


def test_a_longer_grace_period_is_taken_as_it_is(render) -> None:
    assert render(terminationGracePeriodSeconds=18).pod["terminationGracePeriodSeconds"] == 18


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"redisUrl": None}, "missing property 'redisUrl'"),
        ({"redisUrl": ""}, "/redisUrl"),
        ({"redisUrl": "embedded"}, "/redisUrl"),
        ({"redisUrl": "redis://user:password@valkey:6379"}, "/redisUrl"),
        ({"redisUrl": "redis://valkey?password=open"}, "/redisUrl"),
        ({"redisUrlInSecret": True}, "'not' failed"),
        ({"image": None}, "missing property 'repository'"),
        ({"secrets": None}, "missing property 'secrets'"),
        ({"secrets": []}, "/secrets"),
        ({"terminationGracePeriodSeconds": 17}, "takes more than 17"),
        ({"terminationGracePeriodSeconds": 30, "drainSeconds": 20}, "takes more than 32"),
        ({"autoscaling": {"minReplicas": 7}}, "at least minReplicas"),
        ({"replica": 3}, "'replica' not allowed"),
        ({"quantapay": {"timeout": 3}}, "'timeout' not allowed"),
        ({"quantapay": {"budget": "90 a minute"}}, "/quantapay/budget"),
        ({"networkPolicy": {"redis": {"port": 6379}}}, "/networkPolicy/redis"),
        ({"extraEnv": [{"name": "QUANTAPAY_API_KEY", "value": "open"}]}, "/extraEnv/0/name"),
        ({"config": {"subscribers": [{"secret": "whsec_open"}]}}, "/config/subscribers/0/secret"),
        ({"config": {"clients": [{"quote_secret": ["${file:a}", "open"]}]}}, "/config/clients/0/quote_secret"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_by_name(
    render, refused: type[Exception], values: dict[str, Any], told: str
) -> None:
    with pytest.raises(refused) as refusal:
        render(**values)
    assert told in str(refusal.value)


def test_secrets_are_files_from_secrets_that_exist_and_nothing_else(render) -> None:
    rendered = render(**shop_values(), redisUrl=None, redisUrlInSecret=True)
    assert "Secret" not in rendered.kinds()
    (volume,) = (volume for volume in rendered.pod["volumes"] if volume["name"] == "secrets")
    assert volume["projected"]["sources"] == [{"secret": {"name": "quantapay"}}, {"secret": {"name": "shop"}}]
    mounts = {mount["name"]: mount["mountPath"] for mount in rendered.container["volumeMounts"]}
    assert mounts["secrets"] == "/run/secrets", "where the gateway looks"
    assert "GATEWAY_REDIS_URL" not in rendered.environ, "a variable would win over the file"


def test_every_variable_is_one_that_the_gateway_knows(render) -> None:
    ours = {name for name in render(**shop_values()).environ if name.startswith(("GATEWAY_", "QUANTAPAY_"))}
    assert ours <= {variable.name for variable in variables()}


def test_a_changed_gateway_yaml_reaches_a_running_pod_without_a_restart(render) -> None:
    before, after = render(config={"cache": {"balances": 30}}), render(config={"cache": {"balances": 60}})
    assert before.one("Deployment") == after.one("Deployment"), "a change in it would start every pod anew"
    assert before.one("ConfigMap")["data"] != after.one("ConfigMap")["data"]
    (mount,) = (mount for mount in after.container["volumeMounts"] if mount["name"] == "config")
    assert "subPath" not in mount, "what is mounted by subPath never changes"
    assert after.environ["GATEWAY_CONFIG"] == f"{mount['mountPath']}/gateway.yaml"


def test_replicas_are_spread_over_zones_and_nodes(render) -> None:
    rendered = render()
    spread = rendered.pod["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    labels = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    assert all(one["labelSelector"]["matchLabels"].items() <= labels for one in spread)


def test_whatever_selects_pods_selects_those_of_the_deployment(render) -> None:
    rendered = render()
    labels = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        rendered.one("Deployment")["spec"]["selector"]["matchLabels"],
        rendered.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        rendered.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        rendered.one("Service")["spec"]["selector"],
        rendered.one("Service", suffix="-ops")["spec"]["selector"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)


def test_prometheus_finds_the_operators_port_of_every_pod_and_only_that(render) -> None:
    rendered = render(monitoring={"labels": {"release": "prometheus"}})
    monitor = rendered.one("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    api, ops = rendered.one("Service"), rendered.one("Service", suffix="-ops")
    assert wanted <= ops["metadata"]["labels"].items()
    assert not wanted <= api["metadata"]["labels"].items()
    assert [port["name"] for port in api["spec"]["ports"]] == ["http"], "metrics are not for callers"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in ops["spec"]["ports"]}
    assert ops["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "quantapay-gateway", "the job of prometheus.yml"
    assert ops["spec"]["publishNotReadyAddresses"] is True
    assert {one["metadata"]["labels"]["release"] for one in (monitor, rendered.one("PrometheusRule"))} == {"prometheus"}


def test_the_alerts_are_those_that_are_tested(render) -> None:
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
    assert render().one("PrometheusRule")["spec"] == alerts
    assert (ROOT / "deploy/helm/alerts.yml").is_symlink(), "a copy would grow old"


def test_the_network_is_closed_but_for_what_is_needed(render) -> None:
    spec = render(**shop_values()).one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    came = {rule["ports"][0]["port"]: rule["from"] for rule in spec["ingress"]}
    assert came["http"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ingress"}
    assert came["ops"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    goes = [([(port["protocol"], port["port"]) for port in rule["ports"]], rule.get("to")) for rule in spec["egress"]]
    (dns, dns_to), (redis, redis_to), (quantapay, internet), (subscribers, orders) = goes
    assert dns == [("UDP", 53), ("TCP", 53)]
    assert dns_to
    assert (redis, redis_to) == ([("TCP", 6379)], None)
    assert quantapay == [("TCP", 443)]
    assert "169.254.0.0/16" in internet[0]["ipBlock"]["except"], "where clouds hand out credentials"
    assert (subscribers, orders) == ([("TCP", 8443)], [{"podSelector": {"matchLabels": {"app": "orders"}}}])


def test_the_image_is_named_by_the_digest_if_there_is_one(render) -> None:
    repository = "registry.example/quantapay-gateway"
    assert render().container["image"] == f"{repository}:{__version__}", "appVersion of Chart.yaml"
    digest = "sha256:" + "a" * 64
    named = render(image={"repository": repository, "tag": "1", "digest": digest})
    assert named.container["image"] == f"{repository}@{digest}"


def test_the_values_file_and_its_schema_have_the_same_keys() -> None:
    values = yaml.safe_load((ROOT / "deploy/helm/values.yaml").read_text())
    schema = json.loads((ROOT / "deploy/helm/values.schema.json").read_text())
    assert set(schema["properties"]) == {*values, "redisUrl", "secrets", "global"}
    for name, section in schema["properties"].items():
        if section.get("additionalProperties") is False:
            expected = set(section["properties"]) - {"repository"}
            assert set(values[name]) == expected, name


def test_the_examples_of_the_page_fit(render) -> None:
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    blocks = [
        textwrap.dedent(block) for block in re.findall(r"^ *```yaml\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    ]
    values, ingress = (yaml.safe_load(block) for block in blocks)
    rendered = render(**values, redisUrl=None)
    assert [fault for thing in [*rendered.objects, ingress] for fault in faults_of(thing, NEWEST)] == []
    written = yaml.safe_load(rendered.one("ConfigMap")["data"]["gateway.yaml"])
    schema = json.loads((ROOT / "deploy/gateway.schema.json").read_text(encoding="utf-8"))
    assert list(Draft202012Validator(schema).iter_errors(written)) == []
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    release = re.search(r"helm upgrade --install (\S+) deploy/helm", page)
    assert release is not None
    assert path["backend"]["service"]["name"] == f"{release[1]}-quantapay-gateway"


def volume_of(folder: Path, files: dict[str, str]) -> Path:
    """Write files as the kubelet does: each a link through `..data` to where its version is."""
    version = folder / "..2026_01_31"
    version.mkdir(parents=True)
    for name, text in files.items():
        (version / name).write_text(text, encoding="utf-8")
        (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data").symlink_to(version.name)
    return folder


IN_THE_POD = 'mount -t tmpfs tmpfs /run && mkdir /run/secrets && mount --bind "$0" /run/secrets && exec "$@"'
"""Gives a program /run/secrets of its own, in a namespace that nobody else sees."""


def in_the_pod(secrets: Path, environ: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """Run the gateway's program with the secrets where a pod has them."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", IN_THE_POD, str(secrets)]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode:
        return in_this_container(secrets, environ, *command)
    return subprocess.run(
        [*isolated, sys.executable, "-m", "gateway", *command],
        env=clean_environ(**environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def in_this_container(secrets: Path, environ: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """Do the same where no namespace is allowed: with /run/secrets itself, which nothing else has there."""
    place = Path("/run/secrets")
    until(lambda: not place.exists(), "another test is done with it")
    place.symlink_to(secrets)
    try:
        return subprocess.run(
            [sys.executable, "-m", "gateway", *command],
            env=clean_environ(**environ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        place.unlink()


SECRETS = {
    "QUANTAPAY_API_KEY": API_KEY,
    "QUANTAPAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
    "quote-secret-0": QUOTE_SECRET,
    "quote-secret-1": QUOTE_SECRET[::-1],
}


@pytest.mark.parametrize("without", [None, "quote-secret-1"])
def test_the_gateway_takes_the_environment_files_and_secrets_of_the_chart(
    render, tmp_path: Path, without: str | None
) -> None:
    rendered = render(**shop_values())
    config = volume_of(tmp_path / "config", rendered.one("ConfigMap")["data"])
    secrets = volume_of(tmp_path / "secrets", {name: text for name, text in SECRETS.items() if name != without})
    environ = {**rendered.environ, "GATEWAY_CONFIG": str(config / Path(rendered.environ["GATEWAY_CONFIG"]).name)}
    checked = in_the_pod(secrets, environ, "config", "check")
    if without is None:
        assert checked.stdout == "The configuration is good.\n", checked.stderr
    else:
        assert checked.returncode == 2
        assert "clients[3].quote_secret" in checked.stderr


def test_the_chart_is_the_version_that_it_ships() -> None:
    chart = yaml.safe_load((ROOT / "deploy/helm/Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert re.search(rf"{re.escape(OLDEST)}\b", chart["kubeVersion"])
