"""Samplers: the steps that walk back from noise to data, the grids they walk on, and the one loop that serves all."""

from .adaptive import RK45, Adaptive, DPMSolverAdaptive
from .ancestral import DDIM, Ancestral
from .bridge import BridgeFlow
from .brownian import Brownian
from .exponential import Flow
from .fitted import Fitted
from .geodesic import GeodesicWalk
from .grids import GRIDS, Grid, Integers, Karras, LogSNR, Quadratic, Uniform
from .guided import GuidedAncestral
from .jumps import Gamma, Jumps, Solved
from .ladder import Ladder
from .langevin import AnnealedLangevin, ConsistentLangevin, Corrector, Langevin, PredictorCorrector
from .leaping import TauLeaping
from .levels import Levels
from .loop import SAMPLERS, Denoise, Step, sample
from .multistep import DEIS, IPNDM, Adams, DPMSolverMultistep, SDEDPMSolverMultistep, UniPC
from .naive import Naive
from .ode import Churn, Euler, Heun
from .pndm import FON, PNDM
from .policy import Policy, even_policy, policy_cost, step_policy
from .reduced import Reduced
from .sde import EulerMaruyama, ReverseDiffusion
from .singlestep import SEEDS, DPMSolver, DPMSolverFast, DPMSolverPlus, SingleStep
from .splitting import SSCS
from .straight import Straight

__all__ = [
    "DDIM", "DEIS", "FON", "GRIDS", "IPNDM", "PNDM", "RK45", "SAMPLERS", "SEEDS", "SSCS", "Adams", "Adaptive", "Ancestral",
    "AnnealedLangevin", "BridgeFlow", "Brownian", "Churn", "ConsistentLangevin",
    "Corrector", "DPMSolver", "DPMSolverAdaptive", "DPMSolverFast", "DPMSolverMultistep",
    "DPMSolverPlus", "Denoise", "Euler", "EulerMaruyama", "Fitted", "Flow", "Gamma", "GeodesicWalk", "Grid", "GuidedAncestral",
    "Heun", "Integers", "Jumps", "Karras", "Ladder", "Langevin", "Levels", "LogSNR", "Naive", "Policy", "PredictorCorrector",
    "Quadratic", "Reduced", "ReverseDiffusion", "SDEDPMSolverMultistep", "SingleStep", "Solved", "Step", "Straight", "TauLeaping",
    "UniPC", "Uniform", "even_policy", "policy_cost", "sample", "step_policy",
]  # fmt: skip
