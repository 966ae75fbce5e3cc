"""The log on NATS JetStream: many servers append to one replicated stream, and each reads its own mirror of it."""
