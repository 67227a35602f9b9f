"""What Kubernetes knows about PodDisruptionBudgets (policy/v1), in the words of `fields_pod`."""

from __future__ import annotations

POLICY_FIELDS = """
PodDisruptionBudget
  +apiVersion!:str +kind!:str +metadata!:ObjectMeta +spec!:PodDisruptionBudgetSpec status:any~*
PodDisruptionBudgetSpec
  +maxUnavailable:countorpercent +minAvailable:countorpercent +selector:LabelSelector
  +unhealthyPodEvictionPolicy:{IfHealthyBudget|AlwaysAllow}
"""
