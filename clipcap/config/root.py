"""The whole configuration."""

from __future__ import annotations

from typing import Literal

from clipcap.config.base import Section
from clipcap.config.data import DatasetConfig, DownloadConfig, EmbedConfig, RayConfig, SampleConfig, ServeConfig
from clipcap.config.evaluation import ChecksConfig, EvaluateConfig, ReportConfig
from clipcap.config.film import FilmConfig
from clipcap.config.model import CaptionConfig, TrainConfig
from clipcap.config.operations import InboxConfig, LimitsConfig, MaintenanceConfig, NotifyConfig
from clipcap.config.promotion import GateConfig, RetrainConfig


class Config(Section):
    """The whole file."""

    data_dir: str = ""
    """The lake's root, relative to the current folder; --data-dir goes before, CLIPCAP_DATA_DIR and ./data after it."""
    engine: Literal["local", "ray"] = "local"
    """Where shards are embedded and captioned: in this process, or on a Ray cluster (extra "ray")."""
    ray: RayConfig = RayConfig()
    dataset: DatasetConfig = DatasetConfig()
    film: FilmConfig = FilmConfig()
    serve: ServeConfig = ServeConfig()
    sample: SampleConfig = SampleConfig()
    download: DownloadConfig = DownloadConfig()
    embed: EmbedConfig = EmbedConfig()
    train: TrainConfig = TrainConfig()
    caption: CaptionConfig = CaptionConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checks: ChecksConfig = ChecksConfig()
    report: ReportConfig = ReportConfig()
    gate: GateConfig = GateConfig()
    retrain: RetrainConfig = RetrainConfig()
    inbox: InboxConfig = InboxConfig()
    limits: LimitsConfig = LimitsConfig()
    maintenance: MaintenanceConfig = MaintenanceConfig()
    notify: NotifyConfig = NotifyConfig()
