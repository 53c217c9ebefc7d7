"""Extracted features, computed once on a machine and shared by all trainings."""

from cmdiad_train.features.entry import Stored
from cmdiad_train.features.keys import FileHashes, extractor_digest, feature_key, modality_settings, needed_files
from cmdiad_train.features.store import FeatureStore, StoreCounts, default_folder

__all__ = [
    "FeatureStore",
    "FileHashes",
    "StoreCounts",
    "Stored",
    "default_folder",
    "extractor_digest",
    "feature_key",
    "modality_settings",
    "needed_files",
]
