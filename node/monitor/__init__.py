"""Monitoring pages: `views` and `nats_views` turn the state into plain values, `http` serves them."""
