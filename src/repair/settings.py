"""Settings from flags, environment (``REPAIR_*``) and ``repair.toml``, in that order.

Knows where state lives; knows nothing about models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class Settings(BaseSettings):
    """Everything a front door may set; the defaults run the embedded patient offline."""

    model_config = SettingsConfigDict(
        env_prefix="REPAIR_", toml_file="repair.toml", extra="ignore", frozen=True
    )

    home: Path = user_data_path("repair", appauthor=False)
    model: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "bnb_4bit", "bnb_8bit"] = "none"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    seed: int = 0
    database: str | None = None
    # Who reads requests and who words plans: embedded, self, hf:ID or openai:URL.
    watchdog: str = "embedded"
    surgeon: str = "embedded"
    policy: Path | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
