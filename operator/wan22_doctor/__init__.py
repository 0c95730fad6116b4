"""The doctor: looks at a RayService or RayCluster from outside, and says what is wrong and what to do.

``gather`` asks the API server and, through ``exec``, the pods, all at once; the functions in ``checks`` judge what came
back and touch nothing; ``report`` prints it. It changes nothing but the one small task of ``checks.request``.
"""
