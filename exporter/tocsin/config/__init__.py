"""The configuration: the file `tocsin.yaml`, read strictly, with all problems at once.

Reading order: `loading` (files to a `Config`), `document` (YAML), `sections` (models), `validation` and `semantics`
(checks), `resolved` (the result), `problems` (codes and texts), `trial` (templates), `check` (`tocsin check`).
"""

from tocsin.config.loading import load
from tocsin.config.resolved import ChannelConfig, Config, SourceConfig

__all__ = ["ChannelConfig", "Config", "SourceConfig", "load"]
