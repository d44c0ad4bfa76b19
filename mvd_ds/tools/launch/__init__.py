"""``python -m mvd_ds launch`` supervises ``deepspeed`` on one host, a hostfile, a SLURM job or a scheduler's nodes.

DeepSpeed's launcher starts ranks well and ends them badly: ranks outlive a killed launcher, exit code 0 follows a killed one,
hosts are not told that another has failed, and few variables reach other hosts. This folder adds, file by file:

``options`` the command line · ``hosts`` the hosts that take part · ``environment`` the variables of the ranks · ``command`` the
exact ``deepspeed`` command · ``processes`` the search for processes of a launch, and their end · ``remote`` the same on other
hosts · ``guard`` the same when the supervisor itself is killed · ``attempt`` one start, to its end · ``relay`` and ``stop`` what
the launcher prints and which signals arrive · ``judgement`` the outcome of an attempt · ``rank_logs`` the last lines of the rank
that failed first · ``supervisor`` attempt after attempt.

It imports no torch, so that it costs a host 30 MB and answers a signal at once.
"""
