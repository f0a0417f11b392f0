"""The addresses that are about no job: forecast, models, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import choose_encoder

from i2v import __version__
from i2v.errors import InputError
from i2v.presets.model_preset import default_model, preset_named
from i2v.request import match_square
from i2v.rest.answers import HealthAnswer, ModelAnswer, ModelsAnswer
from i2v.rest.fields import field_schemas, request_values
from i2v.rest.metrics import build_registry
from i2v.rest.refusals import ErrorAnswer, Refusal
from i2v.service import Service

__all__ = ["MachineEndpoints"]

# The parameter, what it stands for in a request, and its words.
_PRETEND = {
    "pretend_vram_gib": ("vram_gib", "foresee for a card of this size, all of it free"),
    "pretend_ram_gib": ("ram_gib", "foresee for a machine with so much main memory, all of it free"),
}
_NOT_FORESEEN = ("prompt", "negative_prompt", "seed", "loop", "formats")  # they do not change what a run takes
_TRACED_AGAIN_S = "2"


def _forecast_schema() -> dict[str, Any]:
    pretend = {name: {"type": "number", "description": words} for name, (_, words) in _PRETEND.items()}
    fields = {name: schema for name, schema in field_schemas().items() if name not in _NOT_FORESEEN}
    named = (fields | pretend).items()
    return {
        "parameters": [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in named]
    }


class MachineEndpoints:
    """Each method answers one address."""

    def __init__(self, service: Service):
        self._service, self._registry = service, build_registry(service)

    def add_to(self, router: APIRouter) -> None:
        """Give each method its address, but for `health`."""
        refused: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in (422, 503)}
        add = router.add_api_route
        add("/api/v1/forecast", self.forecast, methods=["GET"], responses=refused, openapi_extra=_forecast_schema())
        add("/api/v1/models", self.models, methods=["GET"])
        add("/metrics", self.metrics, methods=["GET"], response_class=Response)

    def forecast(self, request: Request) -> dict[str, Any]:
        """Foresee memory and time of every way to run these settings, as `python -m i2v forecast --json` does."""
        pairs = request.query_params.multi_items()
        pretended = [(_PRETEND[name][0], text) for name, text in pairs if name in _PRETEND]
        limits = {name for name, _ in pairs} & {limit for limit, _ in _PRETEND.values()}
        if pretended and limits:
            raise InputError(
                f"{min(limits)} limits this machine, and another one is pretended", "Leave one out.", min(limits)
            )
        values = request_values([(name, text) for name, text in pairs if name not in _PRETEND] + pretended)
        preset = preset_named(values.get("model") or default_model())
        size = match_square(preset)
        if "width" not in values and "height" not in values:
            values |= {"width": size[0], "height": size[1]}
        ladder = self._service.forecast({"prompt": ""} | values, size, pretend=bool(pretended))
        if ladder is None:
            again = {"Retry-After": _TRACED_AGAIN_S}
            raise Refusal(503, f"the memory of {preset.name} is being traced", "Ask again in a minute.", None, again)
        return ladder.to_dict()

    def models(self) -> ModelsAnswer:
        """List the models: what they can do, and whether they are here."""
        return ModelsAnswer(models=[ModelAnswer.of(state) for state in self._service.models()])

    def health(self) -> Response:
        """Say whether i2v lives; 503 when a part of it does not."""
        parts = self._service.health()
        alive = all(parts.values())
        answer = HealthAnswer(status="ok" if alive else "failing", version=__version__, **parts)
        return JSONResponse(answer.model_dump(), 200 if alive else 503)

    def metrics(self, request: Request) -> Response:
        """Measure for Prometheus: jobs, queue, stages, worker, cards."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), media_type=content_type)
