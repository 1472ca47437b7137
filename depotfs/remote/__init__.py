"""A storage as seen from trio: worker threads, limits, deadlines, retries."""
