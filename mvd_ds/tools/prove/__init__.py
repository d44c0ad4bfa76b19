"""The `prove` command: check correctness and measure speed of a machine in a fixed time, and write down what was found."""
