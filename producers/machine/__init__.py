"""A machine of a hypervisor as a source: its disks at one instant, while it runs and while it does not."""
