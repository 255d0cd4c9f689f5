"""The admin port: health, metrics, sessions, drain. Runs in the gateway process."""
