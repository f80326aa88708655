"""rl-zoo (rl_zoo3) with LAXA2C and RELAXA2C registered: ``sb3-relax train|tune|enjoy|record|plot ...``.

The commands are rl_zoo3's own; ``sb3-relax COMMAND --help`` lists their options. ``pip install sb3_relax[zoo]``.
"""
