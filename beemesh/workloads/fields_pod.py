"""What Kubernetes knows about the kinds that Beemesh runs, as data (core/v1, apps/v1 and batch/v1 of 1.37).

One block per type: its name at the start of a line, its fields indented below it. A field is written

    [+]name[!]:type[~default[|default…]]

`+` is honoured by Beemesh; without it Kubernetes knows the field and Beemesh does not act on it yet. `!` must be
there. `~` names values that ask for what Beemesh does anyway: they are accepted, and dropped; `~*` accepts every value
(the server's own fields). A name with `*` in it matches as in a shell. Types: `str bool int`, `int(LOW..HIGH)`,
`{A|B}` (one of), `[T]` (list), `map<T>` (string keys), the name of another block, or a format that
`beemesh.workloads.formats` checks. Volumes are in `fields_volumes`.
"""

from __future__ import annotations

KINDS = {
    "Pod": "v1",
    "Deployment": "apps/v1",
    "DaemonSet": "apps/v1",
    "Job": "batch/v1",
    "ConfigMap": "v1",
    "Secret": "v1",
    "PodDisruptionBudget": "policy/v1",
    "ResourceQuota": "v1",
    "PriorityClass": "scheduling.k8s.io/v1",
}
"""The kinds a manifest may hold, and the only `apiVersion` of each."""

POD_FIELDS = """
Pod
  +apiVersion!:str +kind!:str +metadata!:ObjectMeta +spec!:PodSpec status:any~*
Deployment
  +apiVersion!:str +kind!:str +metadata!:ObjectMeta +spec!:DeploymentSpec status:any~*
DaemonSet
  +apiVersion!:str +kind!:str +metadata!:ObjectMeta +spec!:DaemonSetSpec status:any~*
Job
  +apiVersion!:str +kind!:str +metadata!:ObjectMeta +spec!:JobSpec status:any~*
ConfigMap
  +apiVersion!:str +kind!:str +metadata!:ObjectMeta +data:map<str> +binaryData:map<base64> immutable:bool~false
Secret
  +apiVersion!:str +kind!:str +metadata!:ObjectMeta +data:map<base64> +stringData:map<str> +type:str
  immutable:bool~false
ObjectMeta
  +annotations:map<str> +labels:map<labelvalue> +name:str +namespace:label creationTimestamp:any~*
  deletionGracePeriodSeconds:int deletionTimestamp:str finalizers:[str] generateName:str generation:int~*
  managedFields:any~* ownerReferences:[OwnerReference] resourceVersion:str~* selfLink:str~* uid:str~*
OwnerReference
  apiVersion!:str blockOwnerDeletion:bool controller:bool kind!:str name!:str uid!:str
DeploymentSpec
  +replicas:int(0..10000) +selector!:LabelSelector +strategy:DeploymentStrategy +template!:PodTemplateSpec
  +minReadySeconds:int(0..2147483647) +paused:bool
  +progressDeadlineSeconds:int(0..2147483647) +revisionHistoryLimit:int(0..10)
DaemonSetSpec
  +minReadySeconds:int(0..2147483647) +revisionHistoryLimit:int(0..10) +selector!:LabelSelector
  +template!:PodTemplateSpec +updateStrategy:DaemonSetUpdateStrategy
DaemonSetUpdateStrategy
  +rollingUpdate:RollingUpdateDaemonSet type:{RollingUpdate|OnDelete}~RollingUpdate
RollingUpdateDaemonSet
  +maxSurge:countorpercent +maxUnavailable:countorpercent
JobSpec
  +activeDeadlineSeconds:int(1..2147483647) +backoffLimit:int(0..2147483647) +completions:int(0..10000)
  +parallelism:int(0..10000) +template!:PodTemplateSpec backoffLimitPerIndex:int
  completionMode:{NonIndexed|Indexed}~NonIndexed managedBy:str~kubernetes.io/job-controller manualSelector:bool~false
  maxFailedIndexes:int podFailurePolicy:any podReplacementPolicy:{TerminatingOrFailed|Failed}~TerminatingOrFailed|Failed
  selector:LabelSelector successPolicy:any suspend:bool~false ttlSecondsAfterFinished:int(0..2147483647)
DeploymentStrategy
  +type:{Recreate|RollingUpdate} +rollingUpdate:RollingUpdateDeployment
RollingUpdateDeployment
  +maxSurge:countorpercent +maxUnavailable:countorpercent
PodTemplateSpec
  +metadata:ObjectMeta +spec!:PodSpec
LabelSelector
  +matchExpressions:[LabelSelectorRequirement] +matchLabels:map<labelvalue>
LabelSelectorRequirement
  +key!:qualifiedname +operator!:{In|NotIn|Exists|DoesNotExist} +values:[labelvalue]
PodSpec
  +affinity:Affinity +containers!:[Container] +hostname:label +nodeName:subdomain
  +nodeSelector:map<labelvalue> +restartPolicy:{Always|OnFailure|Never} +securityContext:PodSecurityContext
  +terminationGracePeriodSeconds:int(0..86400) +tolerations:[Toleration]
  +topologySpreadConstraints:[TopologySpreadConstraint] +volumes:[Volume]
  activeDeadlineSeconds:int(1..) automountServiceAccountToken:bool~false dnsConfig:PodDNSConfig
  dnsPolicy:{ClusterFirst|ClusterFirstWithHostNet|Default|None}~ClusterFirst|Default enableServiceLinks:bool~*
  ephemeralContainers:[EphemeralContainer] evictionResponders:[EvictionResponder] hostAliases:[HostAlias]
  hostIPC:bool~false hostNetwork:bool~false hostPID:bool~false hostUsers:bool~true hostnameOverride:str
  imagePullSecrets:[LocalObjectReference] initContainers:[Container] os:PodOS
  overhead:map<quantity>
  preemptionPolicy:{PreemptLowerPriority|Never}~PreemptLowerPriority priority:int~0 +priorityClassName:subdomain
  readinessGates:[PodReadinessGate] resourceClaims:[PodResourceClaim] resources:ResourceRequirements
  runtimeClassName:str schedulerName:str~default-scheduler schedulingGates:[PodSchedulingGate]
  schedulingGroup:PodSchedulingGroup serviceAccount:str~default serviceAccountName:str~default
  setHostnameAsFQDN:bool~false shareProcessNamespace:bool~false subdomain:label
Container
  +args:[str] +command:[str] +env:[EnvVar] +envFrom:[EnvFromSource] +image!:image
  +imagePullPolicy:{Always|IfNotPresent|Never} +name!:label +ports:[ContainerPort]
  +resources:ResourceRequirements +securityContext:SecurityContext +volumeMounts:[VolumeMount]
  +workingDir:abspath
  +lifecycle:Lifecycle +livenessProbe:Probe +readinessProbe:Probe resizePolicy:[ContainerResizePolicy]
  restartPolicy:str restartPolicyRules:[ContainerRestartRule] +startupProbe:Probe stdin:bool~false
  stdinOnce:bool~false terminationMessagePath:str~/dev/termination-log
  terminationMessagePolicy:{File|FallbackToLogsOnError}~File tty:bool~false volumeDevices:[VolumeDevice]
EphemeralContainer
  args:[str] command:[str] env:[EnvVar] envFrom:[EnvFromSource] image:str imagePullPolicy:str lifecycle:Lifecycle
  livenessProbe:Probe name!:str ports:[ContainerPort] readinessProbe:Probe resizePolicy:[ContainerResizePolicy]
  resources:ResourceRequirements restartPolicy:str restartPolicyRules:[ContainerRestartRule]
  securityContext:SecurityContext startupProbe:Probe stdin:bool stdinOnce:bool targetContainerName:str
  terminationMessagePath:str terminationMessagePolicy:str tty:bool volumeDevices:[VolumeDevice]
  volumeMounts:[VolumeMount] workingDir:str
EnvVar
  +name!:envname +value:str +valueFrom:EnvVarSource
EnvVarSource
  +configMapKeyRef:ConfigMapKeySelector +fieldRef:ObjectFieldSelector +secretKeyRef:SecretKeySelector
  fileKeyRef:FileKeySelector resourceFieldRef:ResourceFieldSelector
ConfigMapKeySelector
  +key!:datakey +name!:subdomain +optional:bool
SecretKeySelector
  +key!:datakey +name!:subdomain +optional:bool
ObjectFieldSelector
  +apiVersion:{v1} +fieldPath!:str
FileKeySelector
  key!:str optional:bool path!:str volumeName!:str
ResourceFieldSelector
  containerName:str divisor:quantity resource!:str
EnvFromSource
  +configMapRef:ConfigMapEnvSource +prefix:str +secretRef:SecretEnvSource
ConfigMapEnvSource
  +name!:subdomain +optional:bool
SecretEnvSource
  +name!:subdomain +optional:bool
ContainerPort
  +containerPort!:int(1..65535) +hostIP:ip +hostPort:int(1..65535) +name:portname +protocol:{TCP|UDP}
ResourceRequirements
  +limits:ResourceList +requests:ResourceList claims:[ResourceClaim]
ResourceList
  +cpu:cpu +ephemeral-storage:amount +memory:amount */*:quantity hugepages-*:quantity
ResourceClaim
  name!:str request:str
VolumeMount
  +mountPath!:abspath +name!:label +readOnly:bool bindMountOptions:[str]
  mountPropagation:{None|HostToContainer|Bidirectional}~None
  recursiveReadOnly:{Disabled|IfPossible|Enabled}~Disabled subPath:str subPathExpr:str
VolumeDevice
  devicePath!:str name!:str
SecurityContext
  +allowPrivilegeEscalation:bool +capabilities:Capabilities +readOnlyRootFilesystem:bool
  +runAsGroup:int(0..2147483647) +runAsNonRoot:bool +runAsUser:int(0..2147483647) +seccompProfile:SeccompProfile
  appArmorProfile:AppArmorProfile privileged:bool~false procMount:{Default|Unmasked}~Default
  seLinuxOptions:SELinuxOptions windowsOptions:WindowsSecurityContextOptions
PodSecurityContext
  +runAsGroup:int(0..2147483647) +runAsNonRoot:bool +runAsUser:int(0..2147483647) +seccompProfile:SeccompProfile
  appArmorProfile:AppArmorProfile fsGroup:int fsGroupChangePolicy:{OnRootMismatch|Always}
  seLinuxChangePolicy:str seLinuxOptions:SELinuxOptions supplementalGroups:[int] supplementalGroupsPolicy:str
  sysctls:[Sysctl] windowsOptions:WindowsSecurityContextOptions
Capabilities
  +add:[capability] +drop:[capability]
SeccompProfile
  localhostProfile:str type!:{RuntimeDefault|Localhost|Unconfined}~RuntimeDefault
AppArmorProfile
  localhostProfile:str type!:str
SELinuxOptions
  level:str role:str type:str user:str
WindowsSecurityContextOptions
  gmsaCredentialSpec:str gmsaCredentialSpecName:str hostProcess:bool runAsUserName:str
Sysctl
  name!:str value!:str
Affinity
  +nodeAffinity:NodeAffinity +podAffinity:PodAffinity +podAntiAffinity:PodAntiAffinity
NodeAffinity
  +preferredDuringSchedulingIgnoredDuringExecution:[PreferredSchedulingTerm]
  +requiredDuringSchedulingIgnoredDuringExecution:NodeSelector
PodAffinity
  +preferredDuringSchedulingIgnoredDuringExecution:[WeightedPodAffinityTerm]
  +requiredDuringSchedulingIgnoredDuringExecution:[PodAffinityTerm]
PodAntiAffinity
  +preferredDuringSchedulingIgnoredDuringExecution:[WeightedPodAffinityTerm]
  +requiredDuringSchedulingIgnoredDuringExecution:[PodAffinityTerm]
PodAffinityTerm
  +labelSelector:LabelSelector +topologyKey!:qualifiedname matchLabelKeys:[str] mismatchLabelKeys:[str]
  namespaceSelector:LabelSelector namespaces:[str]
WeightedPodAffinityTerm
  +podAffinityTerm!:PodAffinityTerm +weight!:int(1..100)
PreferredSchedulingTerm
  +preference!:NodeSelectorTerm +weight!:int(1..100)
NodeSelector
  +nodeSelectorTerms!:[NodeSelectorTerm]
NodeSelectorTerm
  +matchExpressions:[NodeSelectorRequirement] +matchFields:[NodeSelectorRequirement]
NodeSelectorRequirement
  +key!:qualifiedname +operator!:{In|NotIn|Exists|DoesNotExist|Gt|Lt} +values:[labelvalue]
Toleration
  +effect:{NoSchedule|PreferNoSchedule|NoExecute} +key:qualifiedname +operator:{Exists|Equal} +value:labelvalue
  tolerationSeconds:int
TopologySpreadConstraint
  +labelSelector:LabelSelector +maxSkew!:int(1..10000) +topologyKey!:qualifiedname
  +whenUnsatisfiable!:{DoNotSchedule|ScheduleAnyway} matchLabelKeys:[str] minDomains:int(1..)~1
  nodeAffinityPolicy:{Honor|Ignore}~Honor nodeTaintsPolicy:{Honor|Ignore}~Ignore
PodDNSConfig
  nameservers:[str] options:[PodDNSConfigOption] searches:[str]
PodDNSConfigOption
  name:str value:str
EvictionResponder
  name!:str priority!:int
HostAlias
  hostnames:[str] ip!:ip
LocalObjectReference
  name:str
PodOS
  name!:str
PodReadinessGate
  conditionType!:str
PodResourceClaim
  name!:str resourceClaimName:str resourceClaimTemplateName:str
PodSchedulingGate
  name!:str
PodSchedulingGroup
  podGroupName:str
Lifecycle
  postStart:LifecycleHandler +preStop:LifecycleHandler stopSignal:str
LifecycleHandler
  +exec:ExecAction +httpGet:HTTPGetAction +sleep:SleepAction tcpSocket:TCPSocketAction
Probe
  +exec:ExecAction +failureThreshold:int(1..) grpc:GRPCAction +httpGet:HTTPGetAction
  +initialDelaySeconds:int(0..86400) +periodSeconds:int(1..86400) +successThreshold:int(1..)
  +tcpSocket:TCPSocketAction +terminationGracePeriodSeconds:int(1..86400) +timeoutSeconds:int(1..86400)
ExecAction
  +command:[str]
GRPCAction
  mode:str port!:int(1..65535) service:str
HTTPGetAction
  host:str +httpHeaders:[HTTPHeader] +path:str +port!:portref protocol:str +scheme:{HTTP|HTTPS}
HTTPHeader
  +name!:str +value!:str
TCPSocketAction
  host:str +port!:portref
SleepAction
  +seconds!:int(0..86400)
ContainerResizePolicy
  resourceName!:str restartPolicy!:str
ContainerRestartRule
  action!:str exitCodes:ContainerRestartRuleOnExitCodes
ContainerRestartRuleOnExitCodes
  operator!:str values:[int]
"""
