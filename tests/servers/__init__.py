"""Real servers that the tests start themselves, each on a free loopback port, stopped when the session ends."""
