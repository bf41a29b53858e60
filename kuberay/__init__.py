"""The rollout: Kubernetes manifests, and the parts of them that are generated."""
