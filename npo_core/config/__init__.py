"""The configuration of a run: closed pydantic models, units in every description.

An unknown field, a value out of bounds or two settings that contradict each other stop a run before it starts.
`load_config` reads YAML; `RunConfig` is also the form that Prefect shows.
"""

from npo_core.config.asked import Asked
from npo_core.config.closed import Closed
from npo_core.config.control import AutoNPO, Choice, Control, Plateau, Pool, Probe, Rescue, Trigger
from npo_core.config.drawn import ReasoningGymProblems, VerifiersProblems
from npo_core.config.engine import EngineSettings
from npo_core.config.load import explain, load_config, override, parse_config, parse_plateau
from npo_core.config.mix import (
    DynamicSampling,
    ExtrapolatedGuide,
    ExtraSamples,
    Guide,
    MistakePool,
    Mix,
    ModelGuide,
    NearestGuide,
    PastSuccesses,
    PluginSource,
    Replay,
    Rest,
    ReviewQueue,
    SelfTeacher,
    SnapshotGuide,
    SuccessBuckets,
    SuccessStore,
    TracesGuide,
)
from npo_core.config.model import BaseBounds, BuiltInModel, Lora, Model, PretrainedModel
from npo_core.config.problems import (
    AskedProblems,
    ChainFacts,
    ChainProblems,
    Columns,
    DataProblems,
    Problems,
    Source,
)
from npo_core.config.run import RunConfig
from npo_core.config.tracking import Tracking
from npo_core.config.training import (
    EarlyBootstrap,
    Evaluation,
    Execution,
    Guidance,
    Injection,
    RolloutCorrection,
    Training,
)
from npo_core.config.verifier import Verifier, paper_verifier

__all__ = [
    "Asked",
    "AskedProblems",
    "AutoNPO",
    "BaseBounds",
    "BuiltInModel",
    "ChainFacts",
    "ChainProblems",
    "Choice",
    "Closed",
    "Columns",
    "Control",
    "DataProblems",
    "DynamicSampling",
    "EarlyBootstrap",
    "EngineSettings",
    "Evaluation",
    "Execution",
    "ExtraSamples",
    "ExtrapolatedGuide",
    "Guidance",
    "Guide",
    "Injection",
    "Lora",
    "MistakePool",
    "Mix",
    "Model",
    "ModelGuide",
    "NearestGuide",
    "PastSuccesses",
    "Plateau",
    "PluginSource",
    "Pool",
    "PretrainedModel",
    "Probe",
    "Problems",
    "ReasoningGymProblems",
    "Replay",
    "Rescue",
    "Rest",
    "ReviewQueue",
    "RolloutCorrection",
    "RunConfig",
    "SelfTeacher",
    "SnapshotGuide",
    "Source",
    "SuccessBuckets",
    "SuccessStore",
    "TracesGuide",
    "Tracking",
    "Training",
    "Trigger",
    "Verifier",
    "VerifiersProblems",
    "explain",
    "load_config",
    "override",
    "paper_verifier",
    "parse_config",
    "parse_plateau",
]
