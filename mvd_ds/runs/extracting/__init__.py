"""The parts of ``features`` that write other layouts than its own."""
