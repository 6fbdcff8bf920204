"""The configuration of a run: closed pydantic models, units in every description.

An unknown field, a value out of bounds or two settings that contradict each other stop a run before it starts.
`load_config` reads YAML; `RunConfig` is also the form that Prefect shows.
"""

from npo_core.config.closed import Closed
from npo_core.config.control import AutoNPO, Choice, Control, Plateau, Pool, Probe, Trigger
from npo_core.config.engine import EngineSettings
from npo_core.config.load import explain, load_config, override, parse_config, parse_plateau
from npo_core.config.model import BuiltInModel, Lora, Model, PretrainedModel
from npo_core.config.problems import ChainProblems, Columns, DataProblems, Problems, Source
from npo_core.config.run import RunConfig
from npo_core.config.training import EarlyBootstrap, Evaluation, Execution, Guidance, Injection, Training
from npo_core.config.verifier import Verifier, paper_verifier

__all__ = [
    "AutoNPO",
    "BuiltInModel",
    "ChainProblems",
    "Choice",
    "Closed",
    "Columns",
    "Control",
    "DataProblems",
    "EarlyBootstrap",
    "EngineSettings",
    "Evaluation",
    "Execution",
    "Guidance",
    "Injection",
    "Lora",
    "Model",
    "Plateau",
    "Pool",
    "PretrainedModel",
    "Probe",
    "Problems",
    "RunConfig",
    "Source",
    "Training",
    "Trigger",
    "Verifier",
    "explain",
    "load_config",
    "override",
    "paper_verifier",
    "parse_config",
    "parse_plateau",
]
