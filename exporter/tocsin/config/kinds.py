"""The models of source and channel types, found through the registries and imported only for the types in use."""

from importlib import import_module

from tocsin.settings import Settings


def source_types() -> list[str]:
    """The names of all source types."""
    from tocsin.sources import KINDS

    return list(KINDS)


def channel_types() -> list[str]:
    """The names of all channel types."""
    from tocsin.channels import KINDS

    return list(KINDS)


def source_model(kind: str) -> type[Settings]:
    """The configuration model of a source type."""
    from tocsin.sources import KINDS

    model: type[Settings] = import_module(KINDS[kind]).Config
    return model


def channel_models(kind: str) -> tuple[type[Settings], type[Settings]]:
    """The configuration model of a channel type, and the model of what an alert may say differently."""
    from tocsin.channels import KINDS

    module = import_module(KINDS[kind])
    return module.Config, module.Options
