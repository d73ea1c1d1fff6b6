"""The grammar of an answer, from the fields of a request that choose its format."""

from __future__ import annotations

from slm_kv import Grammar, GrammarError
from slm_serve.errors import RequestError
from slm_serve.http.schemas.structured_output import OutputFormats
from slm_serve.http.tools.plan import ToolPlan
from slm_serve.service import Service


async def output_grammar(body: OutputFormats, service: Service) -> Grammar | None:
    """Return the compiled grammar of an answer; None for any text. Raises RequestError 422 that names the field."""
    try:
        grammars = body.output_grammars()
    except GrammarError as error:
        raise RequestError(422, str(error), param=_first_field(body)) from error
    if len(grammars) > 1:
        raise RequestError(422, f"{' and '.join(grammars)} exclude each other; give only one", param=[*grammars][1])
    for field, grammar in grammars.items():
        try:
            await service.compile_grammar(grammar)
        except GrammarError as error:
            raise RequestError(422, f"{field}: {error}", param=field) from error
        return grammar
    return None


async def compile_tools(plan: ToolPlan, service: Service) -> None:
    """Compile the grammar of calls. Raises RequestError 422 that names the invalid tool."""
    try:
        await service.compile_grammar(plan.grammar)
    except GrammarError as error:
        for place, schema in plan.argument_grammars():
            try:
                await service.compile_grammar(schema)
            except GrammarError as cause:
                raise RequestError(422, f"{place}: {cause}", param=place) from cause
        raise RequestError(422, str(error), param="tools") from error


def _first_field(body: OutputFormats) -> str | None:
    return next((name for name in OutputFormats.model_fields if getattr(body, name) is not None), None)
