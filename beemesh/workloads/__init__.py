"""What is to run: Kubernetes objects, their validation and resolution, and the reconciler."""
