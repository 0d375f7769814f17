"""Supernets: the weights of all networks of a space in one module, and how they are trained."""

from hwnas.supernet.files import load_supernet, save_supernet
from hwnas.supernet.gradient_search import GradientSearch, derive, search_by_gradient
from hwnas.supernet.mixture import ArchitectureWeights, Mixture
from hwnas.supernet.supernet import Supernet, SupernetError
from hwnas.supernet.training import SupernetTraining, evaluate_subnet, train_supernet
from hwnas.supernet.ways import WAYS, Fair, Sandwich, Shrinking, SinglePath, Way, make_way

__all__ = [
    "WAYS",
    "ArchitectureWeights",
    "Fair",
    "GradientSearch",
    "Mixture",
    "Sandwich",
    "Shrinking",
    "SinglePath",
    "Supernet",
    "SupernetError",
    "SupernetTraining",
    "Way",
    "derive",
    "evaluate_subnet",
    "load_supernet",
    "make_way",
    "save_supernet",
    "search_by_gradient",
    "train_supernet",
]
