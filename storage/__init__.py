"""The long-term memory: codec, key layout, Redis store and registry. The only package that imports redis."""
