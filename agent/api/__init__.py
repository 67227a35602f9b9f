"""The HTTPS API of an agent: Kubernetes' paths and shapes, signed requests, answers for the whole mesh."""
