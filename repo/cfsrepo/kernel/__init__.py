"""Images mounted by the kernel."""
