"""The runs that measure a frozen encoder: probes and their heads."""
