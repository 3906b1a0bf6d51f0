"""The launcher behind run.py: environment, host, server, client. Standard library only.

Nothing here is part of the node pack: the pack never imports this package.
"""
