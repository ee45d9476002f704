"""The model families, one file each: presets, networks, loss and step.

`latentfaces.common.models` has what they have in common, and the registry.
"""
