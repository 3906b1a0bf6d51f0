"""Processes with a host of their own, which tests start and kill."""

from .nursery import Nursery

__all__ = ["Nursery"]
