"""Policies: how a model folder becomes a model and its processor."""
