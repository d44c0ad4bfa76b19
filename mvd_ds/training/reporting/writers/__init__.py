"""Writers of metrics: one file for each place that they can go to, and the table of them."""
