"""docker-compose.yml and what it mounts, against each other and against the code."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.compose import NODES, ROOT, Service, services, variables
from support.dockerfile import programs, stages
from support.kustomize import pod_of, render

from aperture.config.options import OPTIONS
from aperture.config.plan import parse
from aperture.config.settings import Durability
from aperture.metrics.families import FAMILIES

DEPLOYING = ROOT / "docs" / "deploying.md"
BOKEHS_OWN = {"BOKEH_SECRET_KEY"}
NAMES = services().keys()
HISTOGRAM = ("_bucket", "_count", "_sum")
each_service = pytest.mark.parametrize("name", NAMES)


def duration(text: str) -> float:
    """Seconds, of which compose says `15s`."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found is not None, text
    return float(found[1])


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def settings_of(node: Service) -> Any:
    """What the command makes of the image's variables and the service's."""
    app = str(ROOT / "examples" / "apps" / "sliders.py")
    environment = stages()[-1].environment() | node.environment
    return parse([app, *shlex.split(node.said["command"])], environment).settings


@each_service
def test_everything_that_is_mounted_exists(name: str) -> None:
    """Docker would make a folder of a file that is not there, and the service would wonder."""
    for target, source in services()[name].mounts().items():
        assert source.exists(), f"{source} for {target}"


@each_service
def test_services_have_no_more_rights_than_they_need(name: str) -> None:
    """No service writes to its image, has a capability, or can get one."""
    said = services()[name].said
    assert said["read_only"] is True
    assert said["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in said["security_opt"]
    assert "privileged" not in said


@each_service
def test_images_are_of_a_version(name: str) -> None:
    """`latest` is another one tomorrow."""
    tag = services()[name].said["image"].rpartition(":")[2]
    assert re.match(r"v?\d|local$", tag), tag


def test_variables_are_options_of_the_command() -> None:
    """A variable that is not read is an option that its user believes to have set."""
    node = services()["node"]
    assert node.environment.keys() <= {option.environment for option in OPTIONS} | BOKEHS_OWN
    settings = settings_of(node)
    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.use_xheaders
    assert not settings.session_ids.signed
    assert "BOKEH_SECRET_KEY" not in node.environment, "Bokeh warns of an empty one"


def test_any_option_can_be_given() -> None:
    """By one variable, as on the command line; what the file says itself can be said otherwise there."""
    node = services(OPTIONS="--session-urls --user-header 'X-User' --max-callback-seconds 30 --durability ack")["node"]
    settings = settings_of(node)
    assert settings.session_urls
    assert settings.user_header == "X-User"
    assert settings.max_callback_seconds == 30
    assert settings.durability is Durability.ACK


def test_a_key_is_all_that_it_takes_to_sign_sessions() -> None:
    """One variable, and every node signs with it."""
    settings = settings_of(services(BOKEH_SECRET_KEY="a-key")["node"])
    assert settings.session_ids.signed
    assert settings.secret_key == b"a-key"


def test_a_password_reaches_both_ends() -> None:
    """Redis asks for it, and the nodes and the health check have it."""
    found = services(REDIS_PASSWORD="a-password")
    assert found["redis"].arguments("--requirepass") == ["a-password"]
    assert found["redis"].environment["REDISCLI_AUTH"] == "a-password"
    assert settings_of(found["node"]).redis_password == "a-password"


def test_one_variable_says_how_many_nodes_there_are() -> None:
    """They are one service; two stand in."""
    assert services()["node"].said["deploy"]["replicas"] == str(len(NODES))
    assert services(NODES="5")["node"].said["deploy"]["replicas"] == "5"


def test_one_variable_points_to_the_apps() -> None:
    """The folder is mounted where the image looks for apps, read-only; examples stand in."""
    folder = stages()[-1].environment()["APPS_FOLDER"]
    assert services()["node"].mounts()[folder] == ROOT / "examples" / "apps"
    assert services(APPS="./docs")["node"].mounts()[folder] == ROOT / "docs"
    assert all(volume.endswith(":ro") for volume in services()["node"].said["volumes"])


def test_nodes_are_given_the_time_that_they_take_to_stop() -> None:
    """Docker kills what outlives the grace period, and sessions with it."""
    node = services()["node"]
    settings = settings_of(node)
    assert settings.drain_delay + settings.shutdown_grace < duration(node.said["stop_grace_period"])


def test_apps_may_take_their_time_to_load() -> None:
    """As long with compose, which starts no nginx behind a node that it takes for broken, as with the image and in
    Kubernetes."""
    with_compose = duration(services()["node"].said["healthcheck"]["start_period"])
    alone = re.search(r"--start-period=(\S+)", stages()[-1].one("HEALTHCHECK"))
    assert alone is not None
    (pod,) = [thing for thing in render(ROOT / "deploy/kubernetes/overlays/small") if thing["kind"] == "Deployment"]
    probe = pod_of(pod)["containers"][0]["startupProbe"]
    assert with_compose == duration(alone[1]) == probe["periodSeconds"] * probe["failureThreshold"] == 300


def test_nodes_count_as_healthy_when_they_are_ready() -> None:
    """The check is a program of the image, and nginx starts only after it has succeeded."""
    kind, program, path = services()["node"].said["healthcheck"]["test"]
    assert (kind, path) == ("CMD", "/readyz")
    assert program in programs()
    assert services()["nginx"].said["depends_on"]["node"]["condition"] == "service_healthy"


def test_names_and_ports_fit_together() -> None:
    """nginx and Prometheus look for the nodes where they are, and Grafana for Prometheus."""
    found = services()
    settings = settings_of(found["node"])
    (conf,) = [source for source in found["nginx"].mounts().values() if source.name == "nodes.conf"]
    assert re.findall(r"(?m)^server (\S+)", conf.read_text()) == [f"node:{settings.port}"]
    (job,) = load(found["prometheus"].mounts()["/etc/prometheus/prometheus.yml"])["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    assert (discovery["names"], discovery["type"], discovery["port"]) == (["node"], "A", settings.admin_port)
    (source,) = load(ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_nginx_listens_where_it_is_published() -> None:
    """And on nothing else that the world can see: what has no login of its own is for this machine."""
    found = services()
    configuration = found["nginx"].mounts()["/etc/nginx/nginx.conf"].read_text()
    assert found["nginx"].said["ports"] == ["8080:8080"]
    assert re.findall(r"listen (\d+);", configuration) == ["8080"]
    assert "ports" not in found["redis"].said
    assert "ports" not in found["node"].said
    for name in ("prometheus", "grafana"):
        assert all(port.startswith("127.0.0.1:") for port in found[name].said["ports"])


def test_nginx_treats_nodes_as_the_shipped_list_does() -> None:
    """The names differ, and what is said of them does not."""
    said = [
        set(re.findall(r"(?m)^server \S+(?: resolve)? (.*);$", (ROOT / folder / "nodes.conf").read_text()))
        for folder in ("deploy/nginx", "deploy/compose")
    ]
    assert said[0] == said[1] != set()


def test_rules_are_where_prometheus_looks() -> None:
    """A rule file that is not mounted is a start that fails."""
    mounts = services()["prometheus"].mounts()
    names = load(mounts["/etc/prometheus/prometheus.yml"])["rule_files"]
    assert {f"/etc/prometheus/{name}" for name in names} <= mounts.keys()


def test_the_dashboard_asks_the_data_source_that_is_provisioned() -> None:
    """And it is where the provider looks for it."""
    mounts = services()["grafana"].mounts()
    (provider,) = load(ROOT / "deploy/grafana/provisioning/dashboards/aperture.yml")["providers"]
    (target,) = [target for target in mounts if target.startswith(provider["options"]["path"])]
    dashboard = json.loads(mounts[target].read_text())
    (source,) = load(ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert panels
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    """Each is a metric, or a part of a histogram, and is asked for by labels that it has."""
    dashboard = json.loads((ROOT / "deploy/grafana/aperture.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    parts = {f"{name}{part}": family for name, family in FAMILIES.items() if family.buckets for part in HISTOGRAM}
    known = FAMILIES | parts
    selected = [found for expression in asked for found in re.findall(r"(aperture_\w+)\{([^}]*)\}", expression)]
    assert len(selected) > 20
    for name, selector in selected:
        assert name in known, name
        assert set(re.findall(r"(\w+)=", selector)) - {"job", "instance"} <= set(known[name].labels), name


def test_every_variable_is_documented() -> None:
    """A variable that only the file knows is not found."""
    documented = set(re.findall(r"`([A-Z_]+)`", DEPLOYING.read_text()))
    assert variables() - documented == set()
