"""The Kubernetes files: valid by Kubernetes' own schemas, and true to the code that they run."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.kustomize import Thing, by_kubectl, environment, find, kubectl, pod_of, render

from aperture.config.options import BY_NAME, OPTIONS
from aperture.config.plan import parse
from aperture.config.settings import Settings
from aperture.errors import ConfigurationError
from aperture.gateway.admin.endpoints import admin_application
from aperture.metrics.families import FAMILIES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted((FOLDER / "overlays").iterdir())
COMPONENTS = sorted((FOLDER / "components").iterdir())
VERSIONS = ("1.29", "1.32", "1.35", "1.36", "1.37")
"""Of Kubernetes: the three newest that the validator knows, and older ones that are still around."""

PORTS = {"http": 5006, "admin": 9006}
BOKEHS_OWN = {"BOKEH_SECRET_KEY"}
"""Variables that the command reads and that are no option of its own."""

CUSTOM = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {"jobLabel", "selector", "endpoints"},
    ("monitoring.coreos.com/v1", "PrometheusRule"): {"groups"},
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): {"parentRefs", "hostnames", "rules"},
}
"""Kinds that Kubernetes learns from others: what their `spec` may have, of what is used here."""

overlays = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda folder: folder.name)


def everything(tmp_path: Path) -> list[Thing]:
    """The base with every component at once, which no overlay has."""
    relative = {name: os.path.relpath(FOLDER / name, tmp_path) for name in ("base", "components")}
    components = [f"{relative['components']}/{folder.name}" for folder in COMPONENTS if folder.name != "redis-external"]
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [relative["base"]], "components": components})
    )
    return render(tmp_path)


@overlays
def test_kubectl_agrees_on_every_overlay(overlay: Path) -> None:
    """What the other tests look at is what `kubectl kustomize` makes."""
    program = kubectl()
    if program is None:
        pytest.skip("there is no kubectl with kustomize 5 on this machine")

    def order(thing: Thing) -> tuple[str, str]:
        return thing["kind"], thing["metadata"]["name"]

    assert sorted(render(overlay), key=order) == sorted(by_kubectl(program, overlay), key=order)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_schema_of_its_kind(tmp_path: Path, version: str) -> None:
    """Strictly: a field that Kubernetes does not know is a mistake that it would pass over in silence."""
    for things in (*map(render, OVERLAYS), everything(tmp_path)):
        for thing in things:
            if (thing["apiVersion"], thing["kind"]) not in CUSTOM:
                kubernetes_validate.validate(thing, version, strict=True)


def test_a_field_that_nobody_knows_is_noticed() -> None:
    """The test above would hold of anything, if the validator looked away."""
    deployment = find(render(OVERLAYS[0]), "Deployment")
    pod_of(deployment)["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_objects_of_other_projects_have_the_fields_that_these_define(tmp_path: Path) -> None:
    """A monitor that selects the admin service by a port that it has, and a route that leads to the app's."""
    things = everything(tmp_path)
    for thing in things:
        if (thing["apiVersion"], thing["kind"]) in CUSTOM:
            assert thing["spec"].keys() == CUSTOM[thing["apiVersion"], thing["kind"]]
    monitor = find(things, "ServiceMonitor")["spec"]
    service = find(things, "Service", "aperture-admin")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == [
        port["name"] for port in service["spec"]["ports"]
    ]
    (rule,) = find(things, "HTTPRoute")["spec"]["rules"]
    (to,) = rule["backendRefs"]
    assert to == {"name": "aperture", "port": find(things, "Service")["spec"]["ports"][0]["port"]}


@overlays
def test_the_containers_options_are_options_of_the_command(overlay: Path) -> None:
    """The arguments and the variables make a plan without a complaint, and none of them is passed over."""
    things = render(overlay)
    (container,) = pod_of(find(things, "Deployment"))["containers"]
    given = environment(things)
    known = {option.environment for option in OPTIONS} | BOKEHS_OWN
    assert given.keys() <= known
    settings = parse([str(ROOT / "examples" / "apps" / "sliders.py"), *container["args"]], given).settings
    assert settings.session_ids.signed
    assert settings.use_xheaders
    assert settings.redis_url is not None
    assert settings.redis_wait
    assert {BY_NAME["port"].default, int(str(BY_NAME["admin_port"].default))} == set(PORTS.values())


@overlays
def test_no_key_is_shipped_and_none_means_no_start(overlay: Path) -> None:
    """A key that everybody can read in a repository would be worse than none."""
    things = render(overlay)
    values = {name: base64.b64decode(text) for name, text in find(things, "Secret", "aperture-keys")["data"].items()}
    assert set(values.values()) == {b""}
    with pytest.raises(ConfigurationError, match="BOKEH_SECRET_KEY"):
        parse([], environment(things) | {"BOKEH_SECRET_KEY": ""})


@overlays
def test_an_empty_url_of_redis_means_no_start(overlay: Path) -> None:
    """Each node would be a server of its own, and ready: their pages would find no session behind the load balancer."""
    given = environment(render(overlay))
    assert "APERTURE_REDIS_URL" in given
    with pytest.raises(ConfigurationError, match="--redis-url"):
        parse([], given | {"APERTURE_REDIS_URL": ""})
    with pytest.raises(ConfigurationError, match="--redis-url"):
        parse([], given | {"APERTURE_REDIS_URL": "", "APERTURE_REDIS_PASSWORD": ""})


@overlays
def test_probes_ask_endpoints_that_there_are(overlay: Path) -> None:
    """Each path is one of the admin port, and each port is one of the container."""
    (container,) = pod_of(find(render(overlay), "Deployment"))["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == PORTS
    rules = {str(rule.matcher.regex.pattern) for rule in admin_rules()}
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "admin"}
        assert any(re.fullmatch(pattern, path) for pattern in rules), f"{path} is not among {rules}"


def admin_rules() -> list[Any]:
    application: Any = admin_application(SimpleNamespace(), 1, Settings())
    return [rule for outer in application.default_router.rules for rule in outer.target.rules]


@overlays
def test_the_grace_period_is_long_enough_for_the_drain(overlay: Path) -> None:
    """What happens before SIGTERM, what the node takes after it, and something to spare."""
    things = render(overlay)
    pod = pod_of(find(things, "Deployment"))
    (container,) = pod["containers"]
    program, waited = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    settings = parse([], environment(things)).settings
    assert int(waited) + settings.drain_delay + settings.shutdown_grace < pod["terminationGracePeriodSeconds"]


@overlays
def test_pods_need_no_privilege(overlay: Path) -> None:
    """What the strictest standard for pods asks for, and a root file system that is not written to."""
    for thing in render(overlay):
        if thing["kind"] not in ("Deployment", "StatefulSet"):
            continue
        pod = pod_of(thing)
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_everything_that_selects_pods_selects_those_of_the_deployment(tmp_path: Path) -> None:
    """Services, the budget, the policy, the spread and the autoscaler mean the same pods."""
    things = everything(tmp_path)
    deployment = find(things, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    for service in ("aperture", "aperture-admin"):
        assert find(things, "Service", service)["spec"]["selector"] == labels
    assert find(things, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert find(things, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    for spread in pod_of(deployment)["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels
    assert find(things, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": "aperture",
    }
    (redis,) = find(things, "NetworkPolicy", "aperture-redis")["spec"]["ingress"]
    assert redis["from"] == [{"podSelector": {"matchLabels": labels}}]


@overlays
def test_pods_start_wherever_there_is_room(overlay: Path) -> None:
    """A cluster whose machines have no zone has no place at all for pods that must be spread over zones."""
    for spread in pod_of(find(render(overlay), "Deployment"))["topologySpreadConstraints"]:
        assert spread["whenUnsatisfiable"] == "ScheduleAnyway"


def test_nothing_is_sticky(tmp_path: Path) -> None:
    """Any node serves any session, and no object says otherwise."""
    for thing in everything(tmp_path):
        assert "affinity" not in yaml.safe_dump(thing).lower()


def test_the_autoscaler_counts_sessions_per_worker() -> None:
    """The metric is the one that the adapter's rule makes, from metrics that a node has."""
    things = render(FOLDER / "overlays" / "production")
    (metric,) = find(things, "HorizontalPodAutoscaler")["spec"]["metrics"]
    (rule,) = yaml.safe_load((FOLDER / "components" / "autoscaling" / "adapter.yaml").read_text())
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert set(re.findall(r"aperture_\w+(?=\{)", rule["metricsQuery"])) <= FAMILIES.keys()
    assert "replicas" not in find(things, "Deployment")["spec"], "the autoscaler and the overlay would fight over it"


def test_the_rules_are_those_of_prometheus() -> None:
    """One set of alerts, whichever way Prometheus hears of them; and the job that they look for."""
    things = render(FOLDER / "overlays" / "production")
    shipped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert find(things, "PrometheusRule")["spec"] == shipped
    label = find(things, "ServiceMonitor")["spec"]["jobLabel"]
    assert find(things, "Service", "aperture-admin")["metadata"]["labels"][label] == "aperture"


def test_the_ingress_waits_longer_than_a_websocket_is_quiet(tmp_path: Path) -> None:
    """A node pings each websocket every --keep-alive, and the proxy must not hang up before that."""
    annotations = find(everything(tmp_path), "Ingress")["metadata"]["annotations"]
    keep_alive = parse([], {}).settings.keep_alive
    for name in ("proxy-read-timeout", "proxy-send-timeout"):
        assert float(annotations[f"nginx.ingress.kubernetes.io/{name}"]) > keep_alive


def test_the_ingress_asks_another_node_only_where_none_has_the_request(tmp_path: Path) -> None:
    """A connection times out in time for that; a node that is slow has run the app's code."""
    prefix = "nginx.ingress.kubernetes.io/proxy-"
    annotations = find(everything(tmp_path), "Ingress")["metadata"]["annotations"]
    assert annotations[f"{prefix}next-upstream"].split() == ["error", "timeout", "http_503"]
    connect, again, read, send = (
        float(annotations[f"{prefix}{name}-timeout"]) for name in ("connect", "next-upstream", "read", "send")
    )
    assert connect < again < min(read, send)
