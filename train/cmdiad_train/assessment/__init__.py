"""Forecast of what each sensor would detect, from good samples alone (`cmdiad-train --assess-modalities`)."""
