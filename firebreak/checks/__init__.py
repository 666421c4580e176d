"""Does something look wrong? Pure checks: they read and compare, they change nothing."""
