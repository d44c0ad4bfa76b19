"""The commands that need data or a cluster, one file each: every file builds the parts and hands them on."""
