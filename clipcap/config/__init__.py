"""The configuration: one TOML file, one section for each stage, a line of meaning under each field.

The sections stand in ``data.py`` (images to embeddings), ``film.py`` (films to images), ``model.py`` (training and
captioning), ``evaluation.py`` (scores and reports), ``promotion.py`` (the gate and retraining) and ``operations.py``
(nights, clean-up, messages).
"""

from clipcap.config.base import Section
from clipcap.config.changes import changed_settings
from clipcap.config.data import DatasetConfig, DownloadConfig, EmbedConfig, RayConfig, SampleConfig, ServeConfig
from clipcap.config.evaluation import ChecksConfig, EvaluateConfig, ReportConfig
from clipcap.config.film import FilmConfig
from clipcap.config.load import load_config, parse_config, parse_section
from clipcap.config.model import CaptionConfig, LanguageModelConfig, SelfCriticalConfig, TrainConfig
from clipcap.config.operations import InboxConfig, LimitsConfig, MaintenanceConfig, NotifyConfig
from clipcap.config.promotion import GateConfig, RetrainConfig
from clipcap.config.root import Config

__all__ = [
    "CaptionConfig",
    "ChecksConfig",
    "Config",
    "DatasetConfig",
    "DownloadConfig",
    "EmbedConfig",
    "EvaluateConfig",
    "FilmConfig",
    "GateConfig",
    "InboxConfig",
    "LanguageModelConfig",
    "LimitsConfig",
    "MaintenanceConfig",
    "NotifyConfig",
    "RayConfig",
    "ReportConfig",
    "RetrainConfig",
    "SampleConfig",
    "Section",
    "SelfCriticalConfig",
    "ServeConfig",
    "TrainConfig",
    "changed_settings",
    "load_config",
    "parse_config",
    "parse_section",
]
