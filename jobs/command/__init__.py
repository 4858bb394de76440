"""What every command shares: options, the process it runs in, logs and progress."""
