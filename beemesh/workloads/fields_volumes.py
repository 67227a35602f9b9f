"""What Kubernetes knows about volumes, as data in the notation of `fields_pod`."""

from __future__ import annotations

VOLUME_FIELDS = """
Volume
  +configMap:ConfigMapVolumeSource +emptyDir:EmptyDirVolumeSource +name!:label +secret:SecretVolumeSource
  awsElasticBlockStore:AWSElasticBlockStoreVolumeSource azureDisk:AzureDiskVolumeSource
  azureFile:AzureFileVolumeSource cephfs:CephFSVolumeSource cinder:CinderVolumeSource csi:CSIVolumeSource
  downwardAPI:DownwardAPIVolumeSource ephemeral:EphemeralVolumeSource fc:FCVolumeSource
  flexVolume:FlexVolumeSource flocker:FlockerVolumeSource gcePersistentDisk:GCEPersistentDiskVolumeSource
  gitRepo:GitRepoVolumeSource glusterfs:GlusterfsVolumeSource hostPath:HostPathVolumeSource
  image:ImageVolumeSource iscsi:ISCSIVolumeSource nfs:NFSVolumeSource
  persistentVolumeClaim:PersistentVolumeClaimVolumeSource
  photonPersistentDisk:PhotonPersistentDiskVolumeSource portworxVolume:PortworxVolumeSource
  projected:ProjectedVolumeSource quobyte:QuobyteVolumeSource rbd:RBDVolumeSource
  scaleIO:ScaleIOVolumeSource storageos:StorageOSVolumeSource vsphereVolume:VsphereVirtualDiskVolumeSource
EmptyDirVolumeSource
  +medium:{Memory} +sizeLimit:amount mode:int
ConfigMapVolumeSource
  +defaultMode:mode +items:[KeyToPath] +name!:subdomain +optional:bool defaultUser:int
SecretVolumeSource
  +defaultMode:mode +items:[KeyToPath] +optional:bool +secretName!:subdomain defaultUser:int
KeyToPath
  +key!:datakey +path!:relpath mode:mode user:int
DownwardAPIVolumeSource
  defaultMode:int defaultUser:int items:[DownwardAPIVolumeFile]
DownwardAPIVolumeFile
  fieldRef:ObjectFieldSelector mode:int path!:str resourceFieldRef:ResourceFieldSelector user:int
ProjectedVolumeSource
  defaultMode:int defaultUser:int sources:[VolumeProjection]
VolumeProjection
  clusterTrustBundle:ClusterTrustBundleProjection configMap:ConfigMapProjection
  downwardAPI:DownwardAPIProjection podCertificate:PodCertificateProjection secret:SecretProjection
  serviceAccountToken:ServiceAccountTokenProjection
ClusterTrustBundleProjection
  labelSelector:LabelSelector name:str optional:bool path!:str signerName:str user:int
ConfigMapProjection
  items:[KeyToPath] name:str optional:bool
DownwardAPIProjection
  items:[DownwardAPIVolumeFile]
PodCertificateProjection
  certificateChainPath:str credentialBundlePath:str keyPath:str keyType!:str maxExpirationSeconds:int
  signerName!:str user:int userAnnotations:map<str>
SecretProjection
  items:[KeyToPath] name:str optional:bool
ServiceAccountTokenProjection
  audience:str expirationSeconds:int path!:str user:int
HostPathVolumeSource
  path!:str type:str
ImageVolumeSource
  pullPolicy:str reference:str
NFSVolumeSource
  path!:str readOnly:bool server!:str
PersistentVolumeClaimVolumeSource
  claimName!:str readOnly:bool
EphemeralVolumeSource
  volumeClaimTemplate:PersistentVolumeClaimTemplate
PersistentVolumeClaimTemplate
  metadata:ObjectMeta spec!:PersistentVolumeClaimSpec
PersistentVolumeClaimSpec
  accessModes:[str] dataSource:TypedLocalObjectReference dataSourceRef:TypedObjectReference
  resources:VolumeResourceRequirements selector:LabelSelector storageClassName:str
  volumeAttributesClassName:str volumeMode:str volumeName:str
TypedLocalObjectReference
  apiGroup:str kind!:str name!:str
TypedObjectReference
  apiGroup:str kind!:str name!:str namespace:str
VolumeResourceRequirements
  limits:map<quantity> requests:map<quantity>
AWSElasticBlockStoreVolumeSource
  fsType:str partition:int readOnly:bool volumeID!:str
AzureDiskVolumeSource
  cachingMode:str diskName!:str diskURI!:str fsType:str kind:str readOnly:bool
AzureFileVolumeSource
  readOnly:bool secretName!:str shareName!:str
CephFSVolumeSource
  monitors!:[str] path:str readOnly:bool secretFile:str secretRef:LocalObjectReference user:str
CinderVolumeSource
  fsType:str readOnly:bool secretRef:LocalObjectReference volumeID!:str
CSIVolumeSource
  driver!:str fsType:str nodePublishSecretRef:LocalObjectReference readOnly:bool volumeAttributes:map<str>
FCVolumeSource
  fsType:str lun:int readOnly:bool targetWWNs:[str] wwids:[str]
FlexVolumeSource
  driver!:str fsType:str options:map<str> readOnly:bool secretRef:LocalObjectReference
FlockerVolumeSource
  datasetName:str datasetUUID:str
GCEPersistentDiskVolumeSource
  fsType:str partition:int pdName!:str readOnly:bool
GitRepoVolumeSource
  directory:str repository!:str revision:str
GlusterfsVolumeSource
  endpoints!:str path!:str readOnly:bool
ISCSIVolumeSource
  chapAuthDiscovery:bool chapAuthSession:bool fsType:str initiatorName:str iqn!:str iscsiInterface:str lun!:int
  portals:[str] readOnly:bool secretRef:LocalObjectReference targetPortal!:str
PhotonPersistentDiskVolumeSource
  fsType:str pdID!:str
PortworxVolumeSource
  fsType:str readOnly:bool volumeID!:str
QuobyteVolumeSource
  group:str readOnly:bool registry!:str tenant:str user:str volume!:str
RBDVolumeSource
  fsType:str image!:str keyring:str monitors!:[str] pool:str readOnly:bool secretRef:LocalObjectReference user:str
ScaleIOVolumeSource
  fsType:str gateway!:str protectionDomain:str readOnly:bool secretRef!:LocalObjectReference sslEnabled:bool
  storageMode:str storagePool:str system!:str volumeName:str
StorageOSVolumeSource
  fsType:str readOnly:bool secretRef:LocalObjectReference volumeName:str volumeNamespace:str
VsphereVirtualDiskVolumeSource
  fsType:str storagePolicyID:str storagePolicyName:str volumePath!:str
"""
