"""What runs near a server, on the computer that it is on: whole jobs, asked for from afar."""
