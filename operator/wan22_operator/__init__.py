"""The operator: keeps a managed RayService or RayCluster at the counts that its annotations ask for.

How a count flows: a user annotates the object; ``admission`` refuses a count that is not possible. The watches of
``handlers`` queue the object, and ``reconcile`` gathers its situation (``desired``, ``observed``), takes the next step
(``steps``) and records it in annotations. ``admission``, called by the API server through ``webhook``, applies these
annotations to the spec within the same request, so that each field has one author. KubeRay then makes or removes pods
and configures Serve; on a standalone RayCluster ``serve_deploy`` configures it.
"""
