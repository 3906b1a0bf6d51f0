"""What menus and page need: widgets, sockets, choices, messages, routes."""
