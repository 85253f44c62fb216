"""Configuration: the file `tocsin.yaml`, read strictly, with everything that is wrong told at once and with its
line."""

from tocsin.alert import Alert
from tocsin.config.loading import load
from tocsin.config.resolved import ChannelConfig, Config, SourceConfig

__all__ = ["Alert", "ChannelConfig", "Config", "SourceConfig", "load"]
