"""Many machines: score archives of parts, train many detectors, serve and distribute bundles."""
