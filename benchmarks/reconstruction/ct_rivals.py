"""Classical reconstructions of few views: FBP, SART, SIRT and total variation, and the grids they are tuned over.

All of them see the same line integrals. FBP and SART are scikit-image's. SIRT is our own, with the same projections as
ASTRA's, which it agrees with (a test, where ASTRA is installed); so is TV, which neither library has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.operators.projection import ParallelBeam
from medidiff.operators.variation import total_variation

Array = NDArray[Any]
Settings = Mapping[str, Any]

GRIDS: dict[str, Sequence[Settings]] = {
    "FBP": [{"filter": name} for name in ("ramp", "shepp-logan", "cosine", "hamming", "hann")],
    "SART": [{"sweeps": n, "relaxation": r} for n in (5, 10) for r in (0.15, 0.4)],
    "SIRT": [{"iterations": n} for n in (100, 200, 400, 800)],
    "TV": [{"weight": w, "iterations": n} for w in (5e-5, 1e-4, 2e-4, 4e-4, 8e-4) for n in (500,)],
}


def reconstruct(name: str, operator: ParallelBeam, y: Tensor, settings: Settings) -> Tensor:
    """A rival's image, shape (1, 1, i, j, k), from line integrals (1, 1, views, detectors, k)."""
    return METHODS[name](operator, y, **settings).clamp_min(0)


def fbp(operator: ParallelBeam, y: Tensor, filter: str) -> Tensor:  # noqa: A002 - scikit-image's name
    """Filtered back-projection."""
    from skimage.transform import iradon

    return _by_plane(operator, y, lambda sinogram, degrees: iradon(sinogram, degrees, filter_name=filter, circle=True))


def sart(operator: ParallelBeam, y: Tensor, sweeps: int, relaxation: float) -> Tensor:
    """Simultaneous algebraic reconstruction, some sweeps over the views."""
    from skimage.transform import iradon_sart

    def one(sinogram: Array, degrees: Array) -> Array:
        image = None
        for _ in range(sweeps):
            image = iradon_sart(sinogram, degrees, image=image, relaxation=relaxation, clip=(0, 4))
        return np.asarray(image)

    return _by_plane(operator, y, one)


def _by_plane(operator: ParallelBeam, y: Tensor, method: Callable[[Array, Array], Array]) -> Tensor:
    """scikit-image wants a square whose inscribed circle holds everything: as many pixels as the detector has bins."""
    degrees = np.rad2deg(operator.angles)
    ni, nj = operator.in_shape[1:3]
    start_i, start_j = _middle(operator.detectors, ni), _middle(operator.detectors, nj)
    planes = []
    for k in range(y.shape[-1]):
        image = method(y[0, 0, :, :, k].numpy().T.astype(np.float64), degrees)
        ours = image.T[:, ::-1]  # their detector lies along the columns, their rows count downwards
        planes.append(ours[start_i : start_i + ni, start_j : start_j + nj])
    return torch.from_numpy(np.stack(planes, axis=-1).astype(np.float32))[None, None]


def _middle(size: int, wanted: int) -> int:
    """First pixel of the middle ``wanted`` ones; both sizes are odd, see ``ct.Case``."""
    return (size - wanted) // 2


def astra_sirt(operator: ParallelBeam, y: Tensor, iterations: int) -> Tensor:
    """ASTRA's own iteration, plane by plane; many times slower than ours on a CPU, and a test compares them."""
    import astra

    ni, nj = operator.in_shape[1:3]
    geometry = astra.create_proj_geom("parallel", operator.pitch, operator.detectors, np.asarray(operator.angles))
    volume = astra.create_vol_geom(nj, ni)
    projector = astra.create_projector("strip", geometry, volume)
    planes = []
    for k in range(y.shape[-1]):
        rays = astra.data2d.create("-sino", geometry, np.ascontiguousarray(y[0, 0, :, :, k].numpy()))
        image = astra.data2d.create("-vol", volume, 0)
        settings = astra.astra_dict("SIRT")
        settings |= {"ProjectorId": projector, "ProjectionDataId": rays, "ReconstructionDataId": image}
        settings["option"] = {"MinConstraint": 0.0}
        algorithm = astra.algorithm.create(settings)
        astra.algorithm.run(algorithm, iterations)
        planes.append(astra.data2d.get(image).T[:, ::-1].copy())
        astra.algorithm.delete(algorithm)
        astra.data2d.delete([rays, image])
    astra.projector.delete(projector)
    return torch.from_numpy(np.stack(planes, axis=-1))[None, None]


def sirt(operator: ParallelBeam, y: Tensor, iterations: int) -> Tensor:
    """Simultaneous iterative reconstruction, positive.

    Source: Gregor & Benson (2008), IEEE Trans. Med. Imaging 27, 918, eq. (3).
    """
    rows = operator.forward(torch.ones(1, *operator.in_shape)).clamp_min(1e-3)
    columns = operator.adjoint(torch.ones(1, *operator.out_shape)).clamp_min(1e-3)
    x = torch.zeros(1, *operator.in_shape)
    for _ in range(iterations):
        x = (x + operator.adjoint((y - operator.forward(x)) / rows) / columns).clamp_min(0)
    return x


def tv(operator: ParallelBeam, y: Tensor, weight: float, iterations: int) -> Tensor:
    """Total variation, by the function that also makes our reference."""
    return total_variation(operator, y, weight, iterations)


METHODS: dict[str, Callable[..., Tensor]] = {"FBP": fbp, "SART": sart, "SIRT": sirt, "TV": tv}
