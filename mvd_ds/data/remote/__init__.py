"""Videos in object stores and on web servers: their addresses, the reads of them, and a cache on the node's disk."""
