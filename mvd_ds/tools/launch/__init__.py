"""``python -m mvd_ds launch``: one supervisor around ``deepspeed``, for one host, a hostfile, SLURM or a scheduler's nodes.

The launcher starts ranks well and ends them badly: ranks outlive a killed launcher, exit code 0 follows a killed one, hosts
are not told that another has failed, and few variables reach other hosts. What is added here, file by file:

``options`` what was asked for · ``hosts`` hostfiles, and which hosts take part · ``environment`` what every rank finds in its
environment · ``command`` the exact ``deepspeed`` command · ``processes`` all that a launch has started, found and ended ·
``remote`` the same on other hosts · ``guard`` ends all that when the supervisor itself is killed · ``attempt`` one start, to
its end · ``judgement`` whether the run is finished · ``rank_logs`` what a failing rank said last · ``supervisor`` attempt after
attempt.

It imports no torch, so that it costs a host 30 MB and answers a signal at once.
"""
