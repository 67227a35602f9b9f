"""What Kubernetes knows about PodDisruptionBudgets (policy/v1), ResourceQuotas (v1) and PriorityClasses
(scheduling.k8s.io/v1), in the words of `fields_pod`."""

from __future__ import annotations

POLICY_FIELDS = """
PodDisruptionBudget
  +apiVersion!:str +kind!:str +metadata!:ObjectMeta +spec!:PodDisruptionBudgetSpec status:any~*
PodDisruptionBudgetSpec
  +maxUnavailable:countorpercent +minAvailable:countorpercent +selector:LabelSelector
  +unhealthyPodEvictionPolicy:{IfHealthyBudget|AlwaysAllow}
ResourceQuota
  +apiVersion!:str +kind!:str +metadata!:ObjectMeta +spec!:ResourceQuotaSpec status:any~*
ResourceQuotaSpec
  +hard!:map<quantity> scopes:[str] scopeSelector:any
PriorityClass
  +apiVersion!:str +kind!:str +metadata!:ObjectMeta +value!:int +globalDefault:bool +description:str
  +preemptionPolicy:{PreemptLowerPriority|Never}
"""
