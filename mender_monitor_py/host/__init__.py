"""The machine: thin readers and watchers. They decide nothing."""
