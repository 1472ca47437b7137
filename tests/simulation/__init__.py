"""A simulation of the mounted tree in which one seed decides everything: order, time, faults, crashes."""
