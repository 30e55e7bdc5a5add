"""What an operator writes in longwatch.yaml: one file, read once, and every mistake named with its place and its remedy."""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from pipeline import core

EMBEDDED_MODEL = "embedded"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class BadConfig(core.LongwatchError):
    """A configuration that cannot be used; the text names file, key and what would be right, and repeats no value."""


def _fill_in(value: object, info: ValidationInfo) -> object:
    """Put the environment's variables in the place of `${NAME}`."""
    environment: Mapping[str, str] = info.context or {}

    def variable(found: re.Match[str]) -> str:
        if found[1] not in environment:
            raise ValueError(f"the environment variable {found[1]} is not set; set it, or write the value here")
        return environment[found[1]]

    return VARIABLE.sub(variable, value) if isinstance(value, str) else value


Secret = Annotated[str, BeforeValidator(_fill_in), Field(min_length=1, max_length=2048)]
"""A text that may hold a credential: it may name environment variables, and its field is never shown."""


class Section(BaseModel):
    """A part of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class CameraSection(Section):
    """Where a camera's pictures come from, and how many a second the model looks at."""

    uri: Secret = Field(repr=False)
    fps: float = 1.0
    still_s: float = core.STILL_S

    @model_validator(mode="before")
    @classmethod
    def _from_uri(cls, value: object) -> object:
        return {"uri": value} if isinstance(value, str) else value


class MemorySection(Section):
    """How much is kept, and for how long."""

    carriers: int | None = Field(default=None, ge=1)  # live ones a camera; None: as many as the model was trained for
    live_policy: core.LivePolicy | None = None  # which of them goes; None: as the model was trained
    keep_hours: float = Field(default=24 * 14, gt=0)
    keep_pictures_hours: float = Field(default=72, gt=0)
    keep_gb_per_camera: float | None = Field(default=8, gt=0)  # 10^9 bytes, half for carriers and half for pictures; None: no limit
    cache_mb: int = Field(default=768, ge=0)  # 10^6 bytes of carriers that a decode process keeps at hand
    form: core.Form = core.Form.INT8  # the smallest that loses nothing measurable (bench.quantise)
    key_files: tuple[Path, ...] = ()  # the first seals what is kept, all open it; none: kept in the clear


class PrefillSection(Section):
    """How many actors turn frames into carriers. They share the cameras; each takes a GPU where there are enough."""

    actors: int = Field(default=1, ge=1, le=64)


class DecodeSection(Section):
    """How many processes answer questions: more start as questions come together, and end as they cease."""

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}; raise max_replicas too")
        return self


class RuleSection(Section):
    """A condition in words to watch for."""

    id: str = Field(pattern=rf"^{core.CAMERA_ID.pattern}$")
    condition: str = Field(min_length=1, max_length=500, pattern=r"\S")
    cameras: tuple[str, ...] = ()
    threshold: float = Field(default=0.5, ge=0, le=1)
    cooldown_s: float = Field(default=30.0, ge=0)
    webhook: Secret | None = Field(default=None, repr=False)

    @field_validator("webhook")
    @classmethod
    def _is_http(cls, webhook: str | None) -> str | None:
        if webhook is not None and not webhook.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return webhook

    def rule(self) -> core.Rule:
        """The rule as the rule engine takes it."""
        return core.Rule(**self.model_dump())


class Config(Section):
    """The whole file."""

    cameras: dict[str, CameraSection] = {}
    model: str = Field(default=EMBEDDED_MODEL, min_length=1)
    adapter: Path | None = None  # a folder that `longwatch train` wrote for this model
    redis: Secret | None = Field(default=None, repr=False)  # None: a private server of our own
    registry_redis: Secret | None = Field(default=None, repr=False)  # for cameras, rules and alerts; None: the same as redis
    host: str = "127.0.0.1"
    port: int = Field(default=8600, ge=1, le=65_535)
    token: Secret | None = Field(default=None, repr=False)
    trust_network: bool = False  # listen beyond loopback without a token: only where the network itself keeps others out
    memory: MemorySection = MemorySection()
    prefill: PrefillSection = PrefillSection()
    decode: DecodeSection = DecodeSection()
    rules: tuple[RuleSection, ...] = ()

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        self.watched()
        ids = [rule.id for rule in self.rules]
        if twice := {rule_id for rule_id in ids if ids.count(rule_id) > 1}:
            raise ValueError(f"rules: each id once only, not {', '.join(sorted(twice))} again")
        for rule in self.rules:
            if unknown := set(rule.cameras) - set(self.cameras):
                raise ValueError(f"rules: {rule.id}: no camera {', '.join(sorted(unknown))}; there is {', '.join(self.cameras) or 'none'}")
        if self.host not in LOOPBACK and self.token is None and not self.trust_network:
            raise ValueError(f"token: needed since host {self.host} lets others in; write e.g. token: ${{LONGWATCH_TOKEN}}")
        return self

    def watched(self) -> list[core.Camera]:
        """The cameras as the ingest takes them."""
        try:
            return [core.Camera(id=name, uri=camera.uri, fps=camera.fps, still_s=camera.still_s) for name, camera in self.cameras.items()]
        except core.BadCamera as error:
            raise ValueError(f"cameras: {error}") from None


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read a configuration; BadConfig when it cannot be used."""
    try:
        told: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadConfig(f"{path}{where}: not valid YAML: {getattr(error, 'problem', None) or 'not UTF-8 text'}") from None
    try:
        return Config.model_validate({} if told is None else told, context=environment)
    except ValidationError as error:
        raise BadConfig("\n".join(f"{path}: {_in_words(problem)}" for problem in error.errors(include_input=False))) from None


def _in_words(problem: ErrorDetails) -> str:
    """One mistake: where it is, and what would be right."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key{_meant(problem['loc'])}"
    if problem["type"] == "model_type":
        return f"{where}: keys are needed here, each followed by ': ' and its value".removeprefix(": ")
    if problem["type"] == "missing":
        return f"{where}: is needed, and missing"
    what = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def _meant(loc: tuple[int | str, ...]) -> str:
    """The keys that could have been meant in the place of an unknown one."""
    sections: dict[str, type[Section]] = {
        "cameras": CameraSection,
        "memory": MemorySection,
        "prefill": PrefillSection,
        "decode": DecodeSection,
        "rules": RuleSection,
    }
    known = list((sections[str(loc[0])] if len(loc) > 1 else Config).model_fields)
    close = get_close_matches(str(loc[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; here may stand {', '.join(known)}"
