"""Score the samples of a manifest, with processes of one machine or with Ray."""
