"""The doctor: examines a RayService or RayCluster from outside and reports what is wrong and what to do.

``gather`` asks the API server and, by programs that it runs in them, the pods; the functions in ``checks`` judge the
facts and are pure; ``report`` prints the findings. The doctor changes nothing, except that it submits one small task.
"""
