"""What the manifests of ``kuberay/`` are held against.

| file | holds |
|---|---|
| ``rendering`` | overlays, and Jobs beside them, as ``kubectl kustomize`` renders them |
| ``manifest`` | rendered objects and the pods that they lead to |
| ``schemas``, ``cel`` | what the API server refuses: schemas, unknown fields, CEL rules |
| ``rules/`` | what schemas cannot say: one small function a rule, by name |
| ``instances``, ``scheduling`` | EC2 instance types; which NodePools a pod can land on |
| ``mutations/`` | broken copies, each with the rule that must find it |
| ``example.yaml`` | a small sound manifest: rules are proven on it, whatever the overlays say |
| ``files`` | YAML sources, Dockerfiles, scripts and IAM policies as they lie |
| ``test_autoscaler``, ``test_placement`` | Ray's own autoscaler; a real cluster |

To add a rule: a function in ``rules/`` with ``@rule``, and a mistake for it in ``mutations/`` with
``@breaks``; the tests take both up by themselves, and fail on a rule without a mistake.
"""
