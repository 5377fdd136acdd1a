"""The gateway: one address before services and models, a program of its own."""
