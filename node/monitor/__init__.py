"""Monitoring: state to plain values (`views`, `nats_views`), and the HTTP server that shows them (`http`)."""
