"""Trainings on a MODEL of the host, for the nodes and for the command line alike."""
