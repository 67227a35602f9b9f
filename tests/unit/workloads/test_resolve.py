"""Workloads become sealed templates, and templates concrete pods."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.errors import InvalidInput
from beemesh.secret import SecretText
from beemesh.workloads.fingerprint import canonical, fingerprint
from beemesh.workloads.objects import ManifestObject, ObjectKey
from beemesh.workloads.podspec import PodPlan, ReplicaIdentity, open_template, plan_pod, pod_name
from beemesh.workloads.record import HostPort, Strategy
from beemesh.workloads.resolve import ResolvedWorkload, needed_objects, resolve
from beemesh.workloads.validation import check
from tests.unit.workloads.samples import config_map, container, deployment, pod, secret

KEY = b"k" * 32
SECRET_ENV = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "password", "key": "word"}}}


def objects(*documents: dict[str, Any]) -> list[ManifestObject]:
    """Checked objects; fails when one is wrong."""
    checked = [check(document) for document in documents]
    assert [item.findings for item in checked] == [()] * len(checked)
    return [item.object for item in checked if item.object is not None]


def resolved(*documents: dict[str, Any]) -> ResolvedWorkload:
    """The one workload among the documents, resolved."""
    resolution = resolve(objects(*documents))
    assert resolution.problems == ()
    return resolution.workloads[0]


def planned(*documents: dict[str, Any]) -> PodPlan:
    """The first replica of the one workload among the documents."""
    template = open_template(resolved(*documents).template)
    return plan_pod(template, ReplicaIdentity("hello-1-0", "default", "alpha", "u"))


def env(plan: PodPlan) -> dict[str, Any]:
    """The first container's variables."""
    return {item["name"]: item["value"] for item in plan.pod["spec"]["containers"][0]["env"]}


def test_a_secret_is_sealed_in_and_changes_the_fingerprint() -> None:
    """A workload's template holds the Secrets that it uses, so a changed Secret is a changed workload."""
    one, same, other = (
        resolved(deployment(container(env=[SECRET_ENV])), secret(word=word)) for word in ("a", "a", "b")
    )
    assert one.references == ("secret/password",)
    assert fingerprint(KEY, one.template) == fingerprint(KEY, same.template)
    assert fingerprint(KEY, one.template) != fingerprint(KEY, other.template)
    assert fingerprint(KEY, one.template) != fingerprint(b"x" * 32, one.template)


def test_only_used_keys_are_sealed_in() -> None:
    """A machine that runs a workload learns no key of a Secret that the workload does not use."""
    template = resolved(pod(container(env=[SECRET_ENV])), secret(word="a", other="b")).template
    assert json.loads(template.reveal())["secrets"] == {"password": {"word": "YQ=="}}


def test_replicas_do_not_change_the_template() -> None:
    """Scaling needs no new revision."""
    few, many = resolved(deployment(replicas=1)), resolved(deployment(replicas=5))
    assert (few.replicas, many.replicas) == (1, 5)
    assert few.template == many.template


def test_nothing_prints_a_secret() -> None:
    """Neither a resolved workload nor a template nor a plan shows what it holds when it is printed."""
    workload = resolved(pod(container(env=[SECRET_ENV])), secret(word="hunter2"))
    template = open_template(workload.template)
    plan = plan_pod(template, ReplicaIdentity("one", "default", "alpha"))
    assert "hunter2" not in f"{workload}{template}{plan}{objects(secret(word='hunter2'))}"
    assert "aHVudGVyMg" not in f"{workload}{template}{plan}"
    assert "hunter2" not in str(env(plan))


def test_missing_references_are_named_with_their_place() -> None:
    """A Secret that is not there is a problem at the place that names it, saying what to apply."""
    volume = {"name": "v", "configMap": {"name": "settngs"}}
    problems = resolve(objects(pod(container(env=[SECRET_ENV]), volumes=[volume]), config_map())).problems
    assert [finding.path for _, finding in problems] == [
        ("spec", "containers", 0, "env", 0, "valueFrom", "secretKeyRef", "name"),
        ("spec", "volumes", 0, "configMap", "name"),
    ]
    assert "apply it first" in problems[0][1].hint
    assert "did you mean 'settings'?" in problems[1][1].hint


def test_missing_keys_and_optional_ones() -> None:
    """A missing key is a problem unless the reference is optional; then the variable is left out."""
    assert "no key 'word'" in resolve(objects(pod(container(env=[SECRET_ENV])), secret(wrd="a"))).problems[0][1].message
    reference = {"name": "password", "key": "word", "optional": True}
    optional = {"name": "WORD", "valueFrom": {"secretKeyRef": reference}}
    assert env(planned(pod(container(env=[optional])))) == {}


def test_binary_content_is_no_variable() -> None:
    """Bytes that are no text are refused as a variable before anything runs."""
    document = secret() | {"data": {"word": "/w=="}}
    found = resolve(objects(pod(container(env=[SECRET_ENV])), document)).problems
    assert "is no text" in found[0][1].message


def test_objects_on_the_mesh_are_used() -> None:
    """What was applied earlier is found on the mesh, and what to ask for is known."""
    [workload, config] = objects(pod(container(env=[SECRET_ENV])), secret(word="a"))
    assert needed_objects([workload]) == (ObjectKey("Secret", "default", "password"),)
    assert needed_objects([workload, config]) == ()
    assert resolve([workload], {config.key: config}).problems == ()
    assert len(resolve([workload]).problems) == 1


def test_pods_use_their_own_namespace() -> None:
    """A Secret of the same name in another namespace is not used, but pointed at."""
    foreign = secret(word="a")
    foreign["metadata"]["namespace"] = "other"
    found = resolve(objects(pod(container(env=[SECRET_ENV])), foreign)).problems
    assert "there is one in namespace other" in found[0][1].hint


def test_environment_is_filled_in() -> None:
    """Variables come in order, later ones win, and `$(NAME)` takes in earlier ones; secrets stay hidden."""
    plan = planned(
        deployment(
            container(
                envFrom=[{"configMapRef": {"name": "settings"}, "prefix": "S_"}, {"secretRef": {"name": "password"}}],
                env=[
                    {"name": "WORD", "value": "w"},
                    {"name": "URL", "value": "$(WORD):$(word)@$(S_host) $$(WORD) $(NONE)"},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                ],
                command=["sh", "-c", "$(WORD) $(POD) $WORD"],
            )
        ),
        config_map(host="h", **{"1": "one"}),
        secret(word="hunter2"),
    )
    values = env(plan)
    assert values.pop("URL") == SecretText("w:hunter2@h $(WORD) $(NONE)")
    assert values.pop("word") == SecretText("hunter2")
    assert values == {"S_host": "h", "S_1": "one", "WORD": "w", "POD": "hello-1-0", "NODE": "alpha", "APP": "hello"}
    assert plan.pod["spec"]["containers"][0]["command"] == ["sh", "-c", "w hello-1-0 $WORD"]


def test_variables_that_double_each_other_are_bounded() -> None:
    """Sixty variables that each repeat the one before twice do not fill the machine's memory."""
    chain = [{"name": "V0", "value": "x" * 100}]
    chain += [{"name": f"V{n}", "value": f"$(V{n - 1})$(V{n - 1})"} for n in range(1, 60)]
    with pytest.raises(InvalidInput):
        planned(pod(container(env=chain)))


def test_files_and_volumes() -> None:
    """ConfigMap and Secret volumes become files, whole or by their items; other volumes stay."""
    items = [{"key": "word", "path": "deep/word"}]
    plan = planned(
        pod(
            container(volumeMounts=[{"name": "s", "mountPath": "/s"}]),
            volumes=[
                {"name": "s", "secret": {"secretName": "password", "items": items, "defaultMode": 0o400}},
                {"name": "c", "configMap": {"name": "settings"}},
                {"name": "t", "emptyDir": {"medium": "Memory"}},
                {"name": "none", "configMap": {"name": "absent", "optional": True}},
            ],
        ),
        secret(word="hunter2", other="x"),
        config_map(host="h"),
    )
    shown = {
        files.volume: (files.mode, {name: value.reveal() for name, value in files.files.items()})
        for files in plan.files
    }
    assert shown == {"s": (0o400, {"deep/word": b"hunter2"}), "c": (0o644, {"host": b"h"}), "none": (0o644, {})}
    assert plan.pod["spec"]["volumes"][2] == {"name": "t", "emptyDir": {"medium": "Memory"}}


def test_ports() -> None:
    """A host port is kept; with `publish: auto` every other port gets any free one; else it is not published."""
    ports = [{"containerPort": 80, "hostPort": 8080, "name": "http"}, {"containerPort": 53, "protocol": "UDP"}]
    document = pod(container(ports=ports))
    assert planned(document).ports == (HostPort(8080, "TCP", 80, "http"),)
    document["metadata"]["annotations"] = {"beemesh.io/publish": "auto"}
    plan = planned(document)
    assert plan.ports == (HostPort(8080, "TCP", 80, "http"), HostPort(0, "UDP", 53, ""))
    assert [port["hostPort"] for port in plan.pod["spec"]["containers"][0]["ports"]] == [8080, 0]
    assert resolved(document).requirements.ports == plan.ports


def test_requirements() -> None:
    """Amounts are summed over containers, a limit stands in for a request, writable layers and volumes count."""
    one = container(resources={"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi", "cpu": 1}})
    two = container(name="two", resources={"limits": {"ephemeral-storage": "10Mi"}})
    volume = {"name": "v", "emptyDir": {"sizeLimit": "5Mi"}}
    document = pod(one, two, volumes=[volume])
    needs = resolved(document).requirements
    assert (needs.cpu_m, needs.mem_mb, needs.storage_mb) == (260, 64 + 32 + 64 + 10, 5)
    document["metadata"]["annotations"] = {"beemesh.io/state": "disk"}
    needs = resolved(document).requirements
    assert (needs.mem_mb, needs.storage_mb) == (64 + 32, 64 + 10 + 5)


@pytest.mark.parametrize(
    ("strategy", "replicas", "expected"),
    [
        ({}, 2, Strategy("RollingUpdate", 1, 0)),
        ({}, 8, Strategy("RollingUpdate", 2, 2)),
        ({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}}, 4, Strategy("RollingUpdate", 0, 1)),
        ({"rollingUpdate": {"maxSurge": 3}}, 4, Strategy("RollingUpdate", 3, 1)),
        ({"type": "Recreate"}, 4, Strategy("Recreate", 0, 4)),
    ],
)
def test_strategy(strategy: dict[str, Any], replicas: int, expected: Strategy) -> None:
    """Percentages become counts as in Kubernetes, and something can always be replaced."""
    found = resolved(deployment(strategy=strategy, replicas=replicas)).strategy
    counts = (found.type, found.max_surge, found.max_unavailable)
    assert counts == (expected.type, expected.max_surge, expected.max_unavailable)


def test_constraints_and_settings() -> None:
    """Placement fields and annotations arrive in what members see; other annotations do not."""
    expression = {"key": "disk", "operator": "In", "values": ["ssd"]}
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [expression]}]
            }
        }
    }
    document = deployment(template={"nodeSelector": {"zone": "a"}, "affinity": affinity, "tolerations": [{"key": "x"}]})
    document["metadata"]["annotations"] = {"beemesh.io/restart": "with-peers", "note": "private"}
    workload = resolved(document)
    assert workload.constraints.node_selector == {"zone": "a"}
    assert workload.constraints.node_affinity[0][0].values == ("ssd",)
    assert workload.constraints.tolerations[0].key == "x"
    assert workload.settings.restart == "with-peers"
    assert workload.annotations == {"beemesh.io/restart": "with-peers"}


def test_pod_names() -> None:
    """A replica's pod has a stable name that is a host name, however long the deployment's."""
    assert pod_name("Pod", "one", 3, 0) == "one"
    assert pod_name("Deployment", "hello", 3, 1) == "hello-3-1"
    assert len(pod_name("Deployment", "h" * 63, 300, 100)) == 63
    assert pod_name("Deployment", "h" * 59, 3, 1) == "h" * 59 + "-3-1", "what fits is not cut"


def test_names_that_are_cut_differ() -> None:
    """Two long names that begin alike make two names of pods, each the same every time, and each a host name."""
    names = ["h" * 59 + ending for ending in ("abc", "abd", "ab", "-.a", ".-a", "-a")]
    made = [pod_name("Deployment", name, 3, 1) for name in names]

    assert len(set(made)) == len(names)
    assert made == [pod_name("Deployment", name, 3, 1) for name in names]
    assert all(len(name) <= 63 and name.endswith("-3-1") for name in made)
    assert pod_name("Deployment", "h" * 50 + ".-" + "h" * 9, 3, 1).startswith("h" * 50 + "-")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"apiVersion": 1}', b"\xff", b"[" * 100_000])
def test_what_is_no_template_is_refused(content: bytes) -> None:
    """Whatever was unsealed, opening it answers with a clear error."""
    with pytest.raises(InvalidInput):
        open_template(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


def shuffled(value: Any) -> Any:
    """The same data with every mapping the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(json_values.filter(lambda value: "\ud800" not in str(value)))
def test_canonical_form_depends_on_content_alone(value: Any) -> None:
    """The order of keys does not matter, and nothing is lost."""
    try:
        form = canonical(value)
    except UnicodeEncodeError:
        return
    assert form == canonical(shuffled(value))
    assert json.loads(form) == value
