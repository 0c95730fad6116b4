"""Keeps the worker count of a managed RayService or RayCluster at what its annotations ask for."""
