"""Facts about devices: peak rates, memory, prices, and the measured rate of a matrix product."""
