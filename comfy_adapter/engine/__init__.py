"""The engine: a bank of branches with gates, carried by a MODEL through a sampling run."""
