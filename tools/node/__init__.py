"""A real Kubernetes node on one Linux machine: a control plane, a kubelet and KubeRay in namespaces of their own.

``python -m tools.node up`` starts it, ``down`` ends it with everything in it, and ``config`` prints its kubeconfig.
Nothing of the machine's own network, mounts or processes changes, and all of it ends when its first process ends.
"""
