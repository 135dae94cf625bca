"""What the flows touch outside themselves, one file per outside system or stored thing."""
