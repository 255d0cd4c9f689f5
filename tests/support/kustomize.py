"""The part of kustomize that `deploy/kubernetes` uses, so that its tests need no kubectl.

Where there is a kubectl, a test compares what it makes of every folder with what is made here. Two things are left out
on purpose: the order of the objects, and the hash at the end of a generated name.
"""

from __future__ import annotations

import base64
import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from support.patience import seconds

__all__ = ["Thing", "by_kubectl", "environment", "find", "kubectl", "pod_of", "render"]

Thing = dict[str, Any]

_KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "components", "images", "patches"),
    *("configMapGenerator", "secretGenerator"),
}
_CLUSTER_WIDE = {"Namespace"}


def kubectl() -> str | None:
    """The program, if there is one that knows components: that of Debian 12 is too old."""
    program = shutil.which("kubectl")
    if program is None:
        return None
    version = subprocess.run([program, "version", "--client"], capture_output=True, text=True, check=False).stdout
    return program if re.search(r"Kustomize Version: v[5-9]", version) else None


def by_kubectl(program: str, folder: Path) -> list[Thing]:
    """What kubectl makes of a folder."""
    made = subprocess.run(
        [program, "kustomize", str(folder)], capture_output=True, text=True, timeout=seconds(30), check=False
    )
    assert made.returncode == 0, made.stderr
    return [_without_hashes(thing) for thing in yaml.safe_load_all(made.stdout)]


def render(folder: Path) -> list[Thing]:
    """The objects of a folder with a kustomization.

    Raises:
        AssertionError: it uses something that is not known here.
    """
    things: list[Thing] = []
    namespaces: list[str] = []
    _accumulate(folder, things, namespaces)
    for name in namespaces:
        for thing in things:
            if thing["kind"] not in _CLUSTER_WIDE:
                thing["metadata"]["namespace"] = name
    return things


def _accumulate(folder: Path, things: list[Thing], namespaces: list[str]) -> None:
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert said.keys() <= _KNOWN, f"{folder}: {said.keys() - _KNOWN}"
    for name in said.get("resources", ()):
        if (folder / name).is_dir():
            _accumulate(folder / name, things, namespaces)
        else:
            things.extend(yaml.safe_load_all((folder / name).read_text()))
    things.extend(
        {"apiVersion": "v1", "kind": "ConfigMap", **_generated(folder, generated, encode=False)}
        for generated in said.get("configMapGenerator", ())
    )
    things.extend(
        {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", **_generated(folder, generated, encode=True)}
        for generated in said.get("secretGenerator", ())
    )
    for name in said.get("components", ()):
        _accumulate(folder / name, things, namespaces)
    for patch in said.get("patches", ()):
        _patch(patch, things)
    for image in said.get("images", ()):
        _set_image(image, things)
    if "namespace" in said:
        namespaces.append(said["namespace"])


def _generated(folder: Path, said: Thing, *, encode: bool) -> Thing:
    content: dict[str, str] = {name: (folder / name).read_text() for name in said.get("files", ())}
    for name in said.get("envs", ()):
        lines = (line.strip() for line in (folder / name).read_text().splitlines())
        content |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    if encode:
        content = {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
    return {"metadata": {"name": said["name"]}, "data": content}


def _patch(patch: Thing, things: list[Thing]) -> None:
    target = patch["target"]
    hit = [t for t in things if t["kind"] == target["kind"] and t["metadata"]["name"] == target["name"]]
    assert hit, f"nothing is {target}"
    for thing in hit:
        for operation in yaml.safe_load(patch["patch"]):
            _operate(thing, operation)


def _operate(thing: Thing, operation: Thing) -> None:
    """One operation of RFC 6902, of those that are used."""
    *way, last = (step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:])
    place: Any = thing
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    value = copy.deepcopy(operation.get("value"))
    if isinstance(place, list):
        if operation["op"] == "add" and last == "-":
            place.append(value)
            return
        assert operation["op"] == "replace", operation
        place[int(last)] = value
    elif operation["op"] == "remove":
        del place[last]
    else:
        assert operation["op"] == "add" or last in place, f"{operation['path']} is not there to be replaced"
        place[last] = value


def _set_image(image: Thing, things: list[Thing]) -> None:
    for container in _containers(things):
        if container["image"].partition(":")[0] == image["name"]:
            container["image"] = f"{image['newName']}:{image['newTag']}"


def _containers(things: list[Thing]) -> Iterator[Thing]:
    for thing in things:
        pod = thing.get("spec", {}).get("template", {}).get("spec", {})
        yield from pod.get("containers", ())


def _without_hashes(thing: Any) -> Any:
    """Generated names without the hash of their content: `aperture-keys-7b24cm84h8`."""
    if isinstance(thing, dict):
        return {key: _without_hashes(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [_without_hashes(value) for value in thing]
    if isinstance(thing, str):
        return re.sub(r"^(aperture-(?:keys|apps))-[a-z0-9]{10}$", r"\1", thing)
    return thing


def find(things: list[Thing], kind: str, name: str = "aperture") -> Thing:
    (found,) = [thing for thing in things if thing["kind"] == kind and thing["metadata"]["name"] == name]
    return found


def pod_of(thing: Thing) -> Thing:
    pod: Thing = thing["spec"]["template"]["spec"]
    return pod


def environment(things: list[Thing]) -> dict[str, str]:
    """What the container's variables are once the Secret is filled in."""
    (container,) = pod_of(find(things, "Deployment"))["containers"]
    secret = find(things, "Secret", "aperture-keys")["data"]
    filled = {name: f"filled-in-{name}" for name in secret} | {"APERTURE_REDIS_URL": "rediss://redis.example.org:6379"}
    given = {name: filled[name] for name in secret}
    for variable in container["env"]:
        source = variable.get("valueFrom", {}).get("secretKeyRef")
        given[variable["name"]] = variable["value"] if source is None else filled[source["key"]]
    return given
