"""What is wrong with a manifest is found, all at once, and named with its place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beemesh.workloads.objects import Finding, path_text
from beemesh.workloads.schema import structs
from beemesh.workloads.validation import check, check_set
from tests.unit.workloads.samples import config_map, container, deployment, pod, secret

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def _spread(**changes: Any) -> dict[str, Any]:
    """A spread over zones; None leaves a field out."""
    values: dict[str, Any] = {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "hello"}},
    }
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def findings(document: object, **options: Any) -> list[Finding]:
    """What a check finds."""
    return list(check(document, **options).findings)


def only(document: object, **options: Any) -> Finding:
    """The one thing that a check finds."""
    found = findings(document, **options)
    assert len(found) == 1, [str(finding) for finding in found]
    return found[0]


@pytest.mark.parametrize("document", [pod(), deployment(), config_map(a="b"), secret(a="b")])
def test_right_ones_pass(document: dict[str, Any]) -> None:
    """A right manifest of each kind is accepted as it is."""
    checked = check(document)
    assert checked.findings == ()
    assert checked.object is not None
    assert checked.object.body == document


def test_what_kubectl_exports_passes() -> None:
    """Fields that the server adds, nulls and defaults of Kubernetes ask for nothing: they are accepted."""
    document = deployment(
        container(
            terminationMessagePath="/dev/termination-log",
            terminationMessagePolicy="File",
            resources={},
            tty=False,
            securityContext={"privileged": False, "seccompProfile": {"type": "RuntimeDefault"}},
        ),
        template={
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "enableServiceLinks": True,
            "automountServiceAccountToken": False,
            "serviceAccountName": "default",
            "imagePullSecrets": [],
            "hostNetwork": False,
        },
        revisionHistoryLimit=10,
        progressDeadlineSeconds=600,
        strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
    )
    document["metadata"] |= {"uid": "x", "resourceVersion": "1", "creationTimestamp": None, "managedFields": [{}]}
    document["status"] = {"replicas": 1}
    assert findings(document) == []


def test_unknown_fields_are_named_with_the_nearest() -> None:
    """A field that Kubernetes does not know is refused, with what was probably meant."""
    found = only(pod(container(imagePulPolicy="Never")))
    assert found.path == ("spec", "containers", 0, "imagePulPolicy")
    assert found.at_key
    assert "did you mean 'imagePullPolicy'?" in str(found)


def test_unsupported_fields_are_refused_by_name() -> None:
    """A field that Kubernetes knows and Beemesh does not act on is refused, and the way out is named."""
    found = only(pod(container(volumeDevices=[{"devicePath": "/dev/x", "name": "a"}])))
    assert "spec.containers[0].volumeDevices is not supported" in found.message
    assert "--allow-unsupported" in found.hint


def test_allowed_unsupported_fields_are_left_out_and_listed() -> None:
    """With leave to do so, unsupported fields are dropped, each one named."""
    document = pod(container(volumeDevices=[{"devicePath": "/dev/x", "name": "a"}]), hostPID=True)
    checked = check(document, allow_unsupported=True)
    assert checked.object is not None
    assert checked.object.body["spec"] == {"containers": [container()]}
    assert {path_text(entry.path) for entry in checked.ignored} == {"spec.containers[0].volumeDevices", "spec.hostPID"}


def test_an_unsupported_volume_becomes_an_empty_one_and_says_so() -> None:
    """Nobody learns from lost data that a volume was left out."""
    checked = check(pod(volumes=[{"name": "data", "nfs": {"server": "a", "path": "/"}}]), allow_unsupported=True)
    assert "an empty directory takes its place" in checked.ignored[0].reason


def test_a_typo_inside_of_an_unsupported_field_is_still_one() -> None:
    """Leave to ignore what is unsupported is no leave for what does not exist."""
    document = pod(container(volumeDevices=[{"devicPath": "/dev/x", "name": "a"}]))
    assert "did you mean 'devicePath'?" in str(only(document, allow_unsupported=True))


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"image": 5}, "spec.containers[0].image", "put it in quotes"),
        ({"image": "Foo/Bar:1"}, "spec.containers[0].image", "lower case"),
        ({"name": "Web"}, "spec.containers[0].name", "lower-case"),
        ({"imagePullPolicy": "always"}, "spec.containers[0].imagePullPolicy", "did you mean 'Always'?"),
        ({"command": "run it"}, "spec.containers[0].command", "must be a list"),
        ({"args": [1]}, "spec.containers[0].args[0]", "put it in quotes"),
        ({"env": [{"name": "1A", "value": ""}]}, "spec.containers[0].env[0].name", "begin with a digit"),
        ({"env": [{"name": "A", "value": True}]}, "spec.containers[0].env[0].value", "put it in quotes"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "spec.containers[0].env[1].name", "used twice"),
        ({"env": [{"name": "A", "valueFrom": {}}]}, "spec.containers[0].env[0].valueFrom", "must have one of"),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]},
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
            "not supported",
        ),
        ({"ports": [{"containerPort": 0}]}, "spec.containers[0].ports[0].containerPort", "from 1 to 65535"),
        ({"ports": [{"containerPort": 70000}]}, "spec.containers[0].ports[0].containerPort", "from 1 to 65535"),
        ({"ports": [{"hostPort": 80}]}, "spec.containers[0].ports[0]", "containerPort is missing"),
        ({"ports": [{"containerPort": 1}, {"containerPort": 1}]}, "spec.containers[0].ports[1].containerPort", "twice"),
        (
            {"ports": [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]},
            "spec.containers[0].ports[1].hostPort",
            "asked for twice",
        ),
        ({"resources": {"requests": {"cpu": 1e30}}}, "spec.containers[0].resources.requests.cpu", "at most 8Pi"),
        (
            {"resources": {"limits": {"cpu": "9P"}}},
            "spec.containers[0].resources.limits.cpu",
            "at most 9007199254740 co",
        ),
        ({"resources": {"limits": {"memory": "9Pi"}}}, "spec.containers[0].resources.limits.memory", "at most 8Pi"),
        ({"resources": {"limits": {"memory": "64MB"}}}, "spec.containers[0].resources.limits.memory", "quantity"),
        ({"resources": {"limits": {"memory": "64m"}}}, "spec.containers[0].resources.limits.memory", "64Mi"),
        ({"resources": {"limits": {"cpu": -1}}}, "spec.containers[0].resources.limits.cpu", "negative"),
        ({"resources": {"limits": {"gpu": 1}}}, "spec.containers[0].resources.limits.gpu", "is no field"),
        ({"resources": {"limits": {"x.io/g": 1}}}, "spec.containers[0].resources.limits['x.io/g']", "not supported"),
        (
            {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "500m"}}},
            "spec.containers[0].resources.requests.cpu",
            "more than its limit",
        ),
        (
            {"volumeMounts": [{"name": "nope", "mountPath": "/x"}]},
            "spec.containers[0].volumeMounts[0].name",
            "no volume",
        ),
        ({"workingDir": "x"}, "spec.containers[0].workingDir", "absolute path"),
        ({"securityContext": {"runAsNonRoot": True}}, "spec.containers[0].securityContext.runAsNonRoot", "runAsUser"),
        ({"securityContext": {"privileged": True}}, "spec.containers[0].securityContext.privileged", "not supported"),
    ],
)
def test_container_mistakes(change: dict[str, Any], place: str, words: str) -> None:
    """Each mistake in a container is found at its place, with what would be right."""
    found = only(pod(container(**change)))
    assert path_text(found.path) == place
    assert words in str(found)


@pytest.mark.parametrize(
    ("spec", "place", "words"),
    [
        ({"containers": []}, "spec", "at least one container"),
        ({"containers": [container(), container()]}, "spec.containers[1].name", "used twice"),
        ({"containers": [{"name": "a"}]}, "spec.containers[0]", "image is missing"),
        ({"containers": {}}, "spec.containers", "must be a list"),
        ({"restartPolicy": "Sometimes"}, "spec.restartPolicy", "one of Always"),
        ({"volumes": [{"name": "a"}, {"name": "a"}]}, "spec.volumes[1].name", "used twice"),
        ({"volumes": [{"name": "a", "secret": {}}]}, "spec.volumes[0].secret", "secretName is missing"),
        (
            {"volumes": [{"name": "a", "emptyDir": {}, "secret": {"secretName": "x"}}]},
            "spec.volumes[0]",
            "has 2 sources",
        ),
        (
            {"volumes": [{"name": "a", "secret": {"secretName": "x", "items": [{"key": "k", "path": "../k"}]}}]},
            "spec.volumes[0].secret.items[0].path",
            "'..'",
        ),
        (
            {"volumes": [{"name": "a", "secret": {"secretName": "x", "defaultMode": 644}}]},
            "spec.volumes[0].secret.defaultMode",
            "0o644",
        ),
        ({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}, "spec.volumes[0].hostPath", "not supported"),
        ({"nodeSelector": {"a": "b c"}}, "spec.nodeSelector.a", "63 letters"),
        ({"tolerations": [{"operator": "Exists", "value": "x"}]}, "spec.tolerations[0].value", "no value"),
        ({"initContainers": [container()]}, "spec.initContainers", "not supported"),
        (
            {"topologySpreadConstraints": [_spread(labelSelector={"matchLabels": {"app": "other"}})]},
            "spec.topologySpreadConstraints[0].labelSelector",
            "other workloads",
        ),
        (
            {"topologySpreadConstraints": [_spread(labelSelector=None)]},
            "spec.topologySpreadConstraints[0]",
            "labelSelector is missing",
        ),
        (
            {"topologySpreadConstraints": [_spread(maxSkew=0, labelSelector={})]},
            "spec.topologySpreadConstraints[0].maxSkew",
            "from 1",
        ),
        (
            {"topologySpreadConstraints": [_spread(minDomains=2, labelSelector={})]},
            "spec.topologySpreadConstraints[0].minDomains",
            "not supported",
        ),
        (
            {"affinity": {"nodeAffinity": {_PREFERRED: [{"weight": 1, "preference": {}}]}}},
            f"spec.affinity.nodeAffinity.{_PREFERRED}[0].preference",
            "an empty term fits no node",
        ),
        (
            {"affinity": {"podAffinity": {_REQUIRED: [{"topologyKey": "beemesh.io/site"}]}}},
            f"spec.affinity.podAffinity.{_REQUIRED}[0]",
            "labelSelector is missing",
        ),
    ],
)
def test_pod_mistakes(spec: dict[str, Any], place: str, words: str) -> None:
    """Each mistake in a pod's spec is found at its place."""
    found = findings(pod() | {"spec": {**pod()["spec"], **spec}})
    assert [path_text(finding.path) for finding in found] == [place]
    assert words in str(found[0])


def test_selector_must_match_the_template() -> None:
    """A deployment that would never own its pods is refused."""
    found = only(deployment(selector={"matchLabels": {"app": "other"}}))
    assert "does not match" in found.message


def test_pod_terms_mean_what_can_be_known() -> None:
    """A node knows its own pods whosesoever, so terms per host may name any; wider ones those of the workload."""
    term: dict[str, Any] = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "hello"}}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    assert findings(deployment(template={"affinity": affinity})) == []
    term["topologyKey"] = "topology.kubernetes.io/zone"
    assert findings(deployment(template={"affinity": affinity})) == []
    term["labelSelector"] = {"matchLabels": {"app": "other"}}
    assert "other workloads with topologyKey" in only(deployment(template={"affinity": affinity})).message
    term["topologyKey"] = "kubernetes.io/hostname"
    assert findings(deployment(template={"affinity": affinity})) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("beemesh.io/publsh", "auto", "did you mean 'beemesh.io/publish'?"),
        ("beemesh.io/restart", "alon", "did you mean 'alone'?"),
        ("beemesh.io/near", "", "must name a node"),
        ("beemesh.io/near", "far away", "beemesh.io/near 'far away'"),
        ("beemesh.io/state", "tape", "one of memory, disk"),
    ],
)
def test_annotations_of_ours(name: str, value: str, words: str) -> None:
    """Our own annotations are checked like fields."""
    document = pod()
    document["metadata"]["annotations"] = {name: value, "example.org/any": "thing"}
    assert words in str(only(document))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "must be a mapping"),
        ([], "must be a mapping"),
        ({}, "kind is missing"),
        ({"Kind": "Pod"}, "did you mean 'kind' instead of 'Kind'?"),
        ({"kind": "Pdo", "apiVersion": "v1"}, "did you mean 'Pod'?"),
        ({"kind": "StatefulSet", "apiVersion": "apps/v1"}, "not supported by beemesh yet"),
        ({"kind": "Deployment", "apiVersion": "extensions/v1beta1"}, "did you mean 'apps/v1'?"),
        ({"kind": "Pod"}, "apiVersion is missing"),
    ],
)
def test_kind_and_version(document: object, words: str) -> None:
    """What is no object, or none that runs here, is refused first."""
    assert words in str(only(document))


def test_secret_content_is_never_shown() -> None:
    """No message about a Secret or an env value repeats it."""
    broken = secret() | {"data": {"a": "hunter2!", "bad key": "aHVudGVyMg=="}, "stringData": {"n": 4711}}
    wrong = [*findings(broken), *findings(pod(container(env=[{"name": "A", "value": ["hunter2"]}])))]
    assert len(wrong) == 4
    assert not any(word in str(finding) for finding in wrong for word in ("hunter2", "aHVudGVyMg", "4711"))


def test_config_limits() -> None:
    """Keys that cannot be files, keys in both maps and too much content are found."""
    document = config_map(**{"a/b": "x", "c": "y" * (1024 * 1024)})
    document["binaryData"] = {"c": "eA=="}
    assert [path_text(finding.path) for finding in findings(document)] == ["the object", "data['a/b']", "binaryData.c"]


def test_namespace_asked_for() -> None:
    """`-n` fills in the namespace, and contradicts another one loudly."""
    document = pod()
    checked = check(document, namespace="shop")
    assert checked.object is not None
    assert checked.object.namespace == "shop"
    document["metadata"]["namespace"] = "other"
    assert "is not the namespace" in only(document, namespace="shop").message


def test_several_problems_at_once() -> None:
    """Everything is found in one go, also when a list holds something of the wrong type."""
    document = deployment(container(image=5, ports=["x", {"containerPort": 0}]), 7)  # type: ignore[arg-type]
    document["spec"]["replicas"] = "two"
    assert len(findings(document)) == 5


def test_the_same_object_twice() -> None:
    """Two definitions of one object in one apply are refused."""
    objects = [checked.object for checked in (check(pod()), check(pod())) if checked.object]
    assert [index for index, _ in check_set(objects)] == [1]


def test_every_type_of_the_tables_exists() -> None:
    """No field of the tables points to a type that is not described."""
    known = structs()
    forms = {"list", "map", "struct", "enum", "int", "bool", "str", "any", "mode", "amount", "cpu", "quantity"}
    forms |= {"label", "subdomain", "labelvalue", "qualifiedname", "datakey", "envname", "portname", "abspath"}
    forms |= {"relpath", "image", "base64", "ip", "capability", "countorpercent", "portref"}
    for struct in known.values():
        for field in (*struct.fields.values(), *struct.patterns):
            kind = field.type
            while kind.inner is not None:
                kind = kind.inner
            assert kind.form in forms, f"{struct.name}.{field.name}"
            assert kind.form != "struct" or kind.name in known


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=10,
)
NAMES = sorted({name for struct in structs().values() for name in struct.fields})
shaped = st.recursive(
    json_like, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["Pod", "Deployment", "ConfigMap", "Secret"]), shaped, shaped, st.booleans())
def test_no_data_makes_it_fail(kind: str, metadata: object, spec: object, allow: bool) -> None:
    """Whatever arrives, a check answers; it never raises."""
    version = "apps/v1" if kind == "Deployment" else "v1"
    document = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec, "data": spec}
    checked = check(document, allow_unsupported=allow)
    assert (checked.object is None) == bool(checked.findings)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path of plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


RICH = deployment(
    container(
        env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, {"name": "B", "value": "x"}],
        envFrom=[{"configMapRef": {"name": "c"}}],
        ports=[{"containerPort": 80, "hostPort": 8080, "name": "http"}],
        resources={"limits": {"cpu": 1, "memory": "64Mi"}},
        volumeMounts=[{"name": "v", "mountPath": "/v"}],
    ),
    template={
        "volumes": [{"name": "v", "secret": {"secretName": "s", "items": [{"key": "a", "path": "b"}]}}],
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]
                }
            }
        },
    },
    strategy={"rollingUpdate": {"maxSurge": 1}},
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_change_of_a_right_one_makes_it_fail(data: st.DataObject) -> None:
    """A right manifest with any one part replaced by anything is accepted or refused, never a failure."""
    document = copy.deepcopy(RICH)
    path = data.draw(st.sampled_from([place for place in places(RICH) if place]))
    target = document
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = data.draw(json_like)
    check(document)
    check(document, allow_unsupported=True)


def test_the_rich_one_is_right() -> None:
    """The sample that is mutated above is right to begin with."""
    assert findings(RICH) == []
