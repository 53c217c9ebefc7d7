"""Compare the published inference, cmdiad in each mode and anomalib in one interleaved run."""
