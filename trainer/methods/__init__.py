"""The training methods: networks and heads put together with a loss."""
