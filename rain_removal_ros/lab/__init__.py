"""What a vehicle never loads: training, evaluation, rendering, baselines. It imports the vehicle's packages,
and they never import it; the commands load it when they are asked for.
"""
