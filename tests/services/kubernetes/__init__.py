"""A Kubernetes API on loopback for tests, and kubelets that run pods as processes of this machine.

`api.FakeApi` is the API server; `scheduler`, `kubelet` and `virtual` are clients of it, and work with
a real one as well. By hand: `python -m tests.services.kubernetes`.
"""
