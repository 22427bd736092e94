"""The demonstration: a rendered rainy drive through the real node over DDS, measured and shown. No vehicle
loads it.
"""
