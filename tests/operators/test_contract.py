"""What every operator must do, run over all of them."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil

import pytest
import torch

import medidiff.operators
from medidiff.errors import GeometryError
from medidiff.operators import Likelihood, LinearOperator
from tests.operators.registry import CASES, Case, dense

EPSILON = {torch.float32: 2e-6, torch.float64: 1e-13}
SURJECTIVE = {name: case for name, case in CASES.items() if case.surjective}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def operator(case: Case) -> LinearOperator:
    return case.make()


def test_no_operator_is_missing_from_the_registry() -> None:
    for module in pkgutil.walk_packages(medidiff.operators.__path__, "medidiff.operators."):
        importlib.import_module(module.name)

    def below(kind: type) -> set[type]:
        return {kind, *(sub for child in kind.__subclasses__() for sub in below(child))}

    ours = {kind for kind in below(LinearOperator) if kind.__module__.startswith("medidiff.")}
    house = {kind for kind in ours if not inspect.isabstract(kind)}
    tested = {type(case.make()) for case in CASES.values()}
    assert house - tested == set()


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
def test_the_adjoint_is_exact(case: Case, operator: LinearOperator, dtype: torch.dtype) -> None:
    x, v = case.images(operator, 1, dtype), case.measurements(operator, 2, dtype)
    forward, adjoint = operator.forward(x), operator.adjoint(v)
    wide = case.dtype()
    left, right = (forward.conj() * v).to(wide).sum(), (x.conj() * adjoint).to(wide).sum()
    assert abs(left - right) / (forward.to(wide).norm() * v.to(wide).norm()) < EPSILON[dtype]


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
def test_shapes_and_dtypes_are_kept(case: Case, operator: LinearOperator, dtype: torch.dtype) -> None:
    x, v = case.images(operator, 1, dtype), case.measurements(operator, 2, dtype)
    for result, shape in ((operator.forward(x), operator.out_shape), (operator.adjoint(v), operator.in_shape)):
        assert tuple(result.shape) == (3, *shape)
        assert result.dtype == case.dtype(dtype)
    assert operator.solve_gram(v, 0.1).dtype == case.dtype(dtype)


def test_it_is_linear(case: Case, operator: LinearOperator) -> None:
    x, z = case.images(operator, 3), case.images(operator, 4)
    together = operator.forward(2.5 * x - 0.3 * z)
    torch.testing.assert_close(together, 2.5 * operator.forward(x) - 0.3 * operator.forward(z), rtol=1e-12, atol=1e-12)
    assert operator.forward(torch.zeros_like(x)).abs().max() == 0


def test_items_of_a_batch_do_not_meet(case: Case, operator: LinearOperator) -> None:
    x = case.images(operator, 5)
    torch.testing.assert_close(operator.forward(x)[1:2], operator.forward(x[1:2]), rtol=1e-13, atol=1e-13)


def test_a_wrong_shape_is_refused_both_ways(operator: LinearOperator) -> None:
    wrong = [*operator.in_shape[:-1], operator.in_shape[-1] + 1]
    with pytest.raises(GeometryError, match="input must be"):
        operator.forward(torch.zeros(1, *wrong))
    wrong = [*operator.out_shape[:-1], operator.out_shape[-1] + 1]
    with pytest.raises(GeometryError, match="measurement must be"):
        operator.adjoint(torch.zeros(1, *wrong))


def test_normal_operator_and_double_adjoint(case: Case, operator: LinearOperator) -> None:
    x, v = case.images(operator, 6), case.measurements(operator, 7)
    torch.testing.assert_close(operator.N.forward(x), operator.adjoint(operator.forward(x)))
    torch.testing.assert_close(operator.H.H.forward(x), operator.forward(x))
    torch.testing.assert_close(operator.H.forward(v), operator.adjoint(v))


def test_it_survives_pickling_and_copying(case: Case, operator: LinearOperator) -> None:
    x = case.images(operator, 8)
    for twin in (pickle.loads(pickle.dumps(operator)), copy.deepcopy(operator)):
        assert torch.equal(twin.forward(x), operator.forward(x))


@pytest.mark.parametrize("damping", [1e-2, 3.0])
def test_the_gram_system_is_solved(case: Case, operator: LinearOperator, damping: float) -> None:
    r = case.measurements(operator, 9)
    matrix = dense(operator, case.dtype())
    gram = matrix @ matrix.mH + damping * torch.eye(len(matrix), dtype=matrix.dtype)
    expected = torch.linalg.solve(gram, r.flatten(1).T).T.reshape(r.shape)
    # Conjugate gradients stop at a residual of 1e-6, which the smallest eigenvalue, here the damping, divides.
    torch.testing.assert_close(operator.solve_gram(r, damping), expected, rtol=1e-4, atol=1e-4)


def test_each_item_may_have_a_damping_of_its_own(case: Case, operator: LinearOperator) -> None:
    r = case.measurements(operator, 10)
    damping = torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64)
    together = operator.solve_gram(r, damping)
    for index in range(3):
        alone = operator.solve_gram(r[index : index + 1], float(damping[index]))
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("noise_std", "rho"), [(0.3, 0.7), (0.05, torch.tensor([0.1, 1.0, 4.0]))])
def test_prox_is_the_closed_form(
    case: Case, operator: LinearOperator, noise_std: float, rho: float | torch.Tensor
) -> None:
    """The minimiser solves (A^H A / s^2 + I / rho^2) x = A^H y / s^2 + x0 / rho^2, here written out densely."""
    x0, y = case.images(operator, 11), case.measurements(operator, 12)
    matrix = dense(operator, case.dtype())
    found = Likelihood(operator, y, noise_std).prox(x0, rho)
    for index, width in enumerate(torch.as_tensor(rho).expand(3).tolist()):
        normal = matrix.mH @ matrix / noise_std**2 + torch.eye(matrix.shape[1], dtype=matrix.dtype) / width**2
        right = matrix.mH @ y[index].flatten() / noise_std**2 + x0[index].flatten() / width**2
        torch.testing.assert_close(found[index].flatten(), torch.linalg.solve(normal, right), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", SURJECTIVE.values(), ids=SURJECTIVE.keys())
def test_projection_reproduces_the_data_and_is_idempotent(case: Case) -> None:
    operator = case.make()
    x0, truth = case.images(operator, 13), case.images(operator, 14)
    likelihood = Likelihood(operator, operator.forward(truth), noise_std=0.2)
    once = likelihood.project(x0)
    assert float(likelihood.misfit(once).max()) < 1e-4
    # Twice is not exactly once: the floor under the Gram eigenvalues leaves about 1e-6 of the misfit.
    assert float((likelihood.project(once) - once).norm() / once.norm()) < 1e-4
    # Nearest: the way there is orthogonal to the null space, so Pythagoras holds with any other consistent image.
    way, along = once - x0, truth - once
    assert abs(float((way.conj() * along).sum().real)) < 1e-3 * float(way.norm() * (truth - x0).norm())


@pytest.mark.parametrize("case", SURJECTIVE.values(), ids=SURJECTIVE.keys())
def test_without_noise_prox_projects(case: Case) -> None:
    operator = case.make()
    x0, y = case.images(operator, 15), case.measurements(operator, 16)
    likelihood = Likelihood(operator, y)
    torch.testing.assert_close(likelihood.prox(x0, 0.5), likelihood.project(x0))
