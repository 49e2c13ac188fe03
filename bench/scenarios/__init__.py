"""The scenarios, one small file each: they say which cases are measured."""

from __future__ import annotations

from bench.scenarios import (
    cnn_capped,
    cnn_large,
    cnn_warm,
    cold_start_cnn,
    giants,
    imports,
    large_pictures,
    mlp_callers,
    mlp_capped,
    mlp_cold_start,
    mlp_memory,
    mlp_verified,
    mlp_warm,
    serverless,
    small_weights,
)
from bench.scenarios.case import Case, Scenario

#: The scenarios by name, in the order of the report.
SCENARIOS = {
    module.SCENARIO.name: module.SCENARIO
    for module in (
        mlp_capped,
        mlp_memory,
        mlp_callers,
        mlp_verified,
        mlp_cold_start,
        mlp_warm,
        cnn_warm,
        cnn_capped,
        cnn_large,
        large_pictures,
        giants,
        cold_start_cnn,
        serverless,
        small_weights,
        imports,
    )
}

#: The folder, inside the folder of results, for runs of the README's rows alone.
HEADLINES = "headlines"

__all__ = ["HEADLINES", "SCENARIOS", "Case", "Scenario"]
