"""The cross entropies of DINO and iBOT against golden numbers, the double loop, and at the corners."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vitrail.ops.distillation import moved_center, patch_distillation, sharpened, view_distillation
from vitrail.ops.sinkhorn import sinkhorn


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def double_loop(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    losses = [
        -(teacher[t] * (student[s] / temperature).log_softmax(-1)).sum(-1).mean()
        for t in range(len(teacher))
        for s in range(len(student))
        if s != t
    ]
    return torch.stack(losses).mean()


def patch_loop(student: Tensor, teacher: Tensor, hidden: Tensor, temperature: float) -> Tensor:
    total = student.new_zeros(())
    for image in range(len(hidden)):
        ids = hidden[image].nonzero()[:, 0].tolist()
        for i in ids:
            total = total - (teacher[image, i] * (student[image, i] / temperature).log_softmax(-1)).sum() / len(ids)
    return total / len(hidden)


class TestGolden:
    def test_loss_and_gradient(self, oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
        golden = oracle("dino_loss")
        student = torch.from_numpy(golden["student"]).requires_grad_()
        teacher = torch.from_numpy(golden["teacher"]).reshape(2, 4, 64)
        center = torch.from_numpy(golden["center0"])
        target = sharpened(teacher, center, float(golden["teacher_temp"]))
        loss = view_distillation(student.reshape(6, 4, 64), target, float(golden["student_temp"]))
        loss.backward()
        assert student.grad is not None
        assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-6)
        torch.testing.assert_close(student.grad, torch.from_numpy(golden["grad"]), rtol=1e-5, atol=5e-7)

    def test_center(self, oracle: Callable[[str], dict[str, np.ndarray]]) -> None:
        golden = oracle("dino_loss")
        mean = torch.from_numpy(golden["teacher"]).mean(0, keepdim=True)
        center = torch.from_numpy(golden["center0"])
        torch.testing.assert_close(moved_center(center, mean, 0.9), torch.from_numpy(golden["center1"]))


class TestSharpened:
    def test_is_its_definition(self) -> None:
        logits, center = randn(2, 3, 5), randn(5, seed=1)
        expected = ((logits - center) / 0.07).exp()
        expected /= expected.sum(-1, keepdim=True)
        torch.testing.assert_close(sharpened(logits, center, 0.07), expected)

    def test_low_temperatures_approach_one_hot_and_high_ones_uniform(self) -> None:
        logits, center = randn(4, 5), torch.zeros(5)
        assert torch.equal(sharpened(logits, center, 1e-6), torch.eye(5, dtype=torch.float64)[logits.argmax(-1)])
        torch.testing.assert_close(sharpened(logits, center, 1e9), torch.full((4, 5), 0.2, dtype=torch.float64))

    def test_no_gradient_and_float32_for_half(self) -> None:
        logits = randn(4, 5).half().requires_grad_()
        found = sharpened(logits, torch.zeros(5), 0.04)
        assert found.dtype == torch.float32
        assert not found.requires_grad


class TestCenter:
    def test_momentum_0_and_1(self) -> None:
        center, mean = randn(5), randn(5, seed=1)
        assert torch.equal(moved_center(center, mean, 1.0), center)
        assert torch.equal(moved_center(center, mean, 0.0), mean)

    def test_the_old_center_stays_as_it_is_and_gives_its_type(self) -> None:
        center, mean = torch.ones(5), randn(5).bfloat16()
        assert moved_center(center, mean, 0.5).dtype == torch.float32
        assert torch.equal(center, torch.ones(5))


class TestViews:
    @pytest.mark.parametrize(("views", "count"), [(2, 1), (2, 2), (5, 1), (6, 2), (7, 4)])
    def test_equals_the_double_loop(self, views: int, count: int) -> None:
        student, teacher = randn(views, 3, 11), randn(count, 3, 11, seed=1).softmax(-1)
        torch.testing.assert_close(
            view_distillation(student, teacher, 0.1), double_loop(student, teacher, 0.1), rtol=1e-12, atol=1e-12
        )

    def test_equals_the_double_loop_with_probabilities_of_sinkhorn(self) -> None:
        student, teacher = randn(5, 8, 4), sinkhorn(randn(2, 8, 4, seed=1), 0.1)
        expected = double_loop(student, teacher, 0.3)
        torch.testing.assert_close(view_distillation(student, teacher, 0.3), expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("sizes", [(2, 4), (1, 5), (1, 1, 4), (3, 3), (0, 6)])
    def test_parts_equal_the_whole(self, sizes: tuple[int, ...]) -> None:
        student, teacher = randn(6, 3, 11), randn(2, 3, 11, seed=1).softmax(-1)
        torch.testing.assert_close(
            view_distillation(student.split(sizes), teacher), view_distillation(student, teacher)
        )

    def test_closed_forms(self) -> None:
        # A student that says nothing loses log K, whatever the teacher says; one that agrees, the entropy.
        teacher = randn(1, 3, 8, seed=1).softmax(-1).expand(2, 3, 8)
        loss = view_distillation(torch.zeros(4, 3, 8, dtype=torch.float64), teacher)
        assert loss.item() == pytest.approx(math.log(8), rel=1e-12)
        agreeing = 0.1 * teacher[:1].log().expand(4, 3, 8)
        entropy = -(teacher[0] * teacher[0].log()).sum(-1).mean()
        torch.testing.assert_close(view_distillation(agreeing, teacher), entropy)

    def test_the_same_view_is_left_out(self) -> None:
        student, teacher = randn(2, 3, 8), randn(1, 3, 8, seed=1).softmax(-1)
        changed = torch.stack([randn(3, 8, seed=2), student[1]])
        torch.testing.assert_close(view_distillation(changed, teacher), view_distillation(student, teacher))

    def test_gradcheck(self) -> None:
        student, teacher = randn(4, 2, 5).requires_grad_(), randn(2, 2, 5, seed=1).softmax(-1)
        assert torch.autograd.gradcheck(lambda x: view_distillation(x, teacher, 0.5), (student,))

    def test_no_gradient_reaches_the_teacher(self) -> None:
        logits = randn(2, 3, 8, seed=1).requires_grad_()
        student = randn(4, 3, 8).requires_grad_()
        view_distillation(student, logits.softmax(-1)).backward()
        assert logits.grad is None
        assert student.grad is not None

    def test_extreme_logits(self) -> None:
        student = (1e4 * randn(4, 3, 8)).float().requires_grad_()
        teacher = sharpened((1e4 * randn(2, 3, 8, seed=1)).float(), torch.zeros(8), 0.04)
        loss = view_distillation(student, teacher)
        loss.backward()
        assert student.grad is not None
        assert loss.isfinite()
        assert student.grad.isfinite().all()
        assert loss.item() == pytest.approx(double_loop(student.double(), teacher.double(), 0.1).item(), rel=1e-5)

    def test_float32_under_autocast(self) -> None:
        student, teacher = randn(4, 3, 8).float(), randn(2, 3, 8, seed=1).float().softmax(-1)
        with torch.autocast("cpu", torch.bfloat16):
            found = view_distillation(student, teacher)
            half = view_distillation(student.bfloat16(), teacher)
        assert found.dtype == half.dtype == torch.float32
        assert torch.equal(found, view_distillation(student, teacher))

    @pytest.mark.parametrize(
        ("student", "teacher", "settings", "words"),
        [
            ((4, 3, 8), (2, 3, 9), {}, "student has 8 prototypes and the teacher 9"),
            ((4, 3, 8), (2, 4, 8), {}, "student has 3 images and the teacher 4"),
            ((1, 3, 8), (2, 3, 8), {}, "student has 1 views and the teacher 2"),
            ((1, 3, 8), (1, 3, 8), {}, "1 student's and 1 teacher's views give no pair"),
            ((4, 3, 8), (0, 3, 8), {}, "4 student's and 0 teacher's views give no pair"),
            ((3, 8), (3, 8), {}, r"student \[3, 8\] and teacher \[3, 8\] must be \[views, B, K\]"),
            ((4, 3, 8), (2, 3, 8), {"temperature": 0.0}, "temperature is 0.0; it must be positive"),
        ],
    )
    def test_errors(
        self, student: tuple[int, ...], teacher: tuple[int, ...], settings: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            view_distillation(torch.zeros(student), torch.zeros(teacher), **settings)

    def test_logits_are_no_probabilities(self) -> None:
        with pytest.raises(ValueError, match=r"go down to -\d\.\d+; pass logits through `sharpened`"):
            view_distillation(randn(4, 3, 8), randn(2, 3, 8))


class TestPatches:
    def test_equals_the_loop_with_all_patches_and_with_the_hidden_ones_alone(self) -> None:
        student, teacher, hidden = randn(4, 9, 6), randn(4, 9, 6, seed=1).softmax(-1), some(4, 9)
        hidden[2] = False
        expected = patch_loop(student, teacher, hidden, 0.1)
        whole = patch_distillation(student, teacher, hidden, 0.1)
        alone = patch_distillation(student[hidden], teacher[hidden], hidden, 0.1)
        torch.testing.assert_close(whole, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone, expected, rtol=1e-12, atol=1e-12)

    def test_a_crop_counts_once_however_many_patches_it_hides(self) -> None:
        losses = torch.tensor([[1.0, 1.0, 1.0, 7.0], [5.0, 9.0, 9.0, 9.0]])
        hidden = torch.tensor([[True, True, True, False], [True, False, False, False]])
        # With the teacher sure of prototype 0, a patch loses -log q_0.
        logits = torch.stack([-losses, (-(-losses).expm1()).log()], -1)
        teacher = torch.tensor([1.0, 0.0]).expand(2, 4, 2)
        assert patch_distillation(logits, teacher, hidden, 1.0).item() == pytest.approx((1 + 5) / 2, rel=1e-5)

    def test_all_hidden_and_none_hidden(self) -> None:
        student, teacher = randn(2, 5, 6).requires_grad_(), randn(2, 5, 6, seed=1).softmax(-1)
        everything, nothing = torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
        expected = -(teacher * (student / 0.1).log_softmax(-1)).sum(-1).mean()
        torch.testing.assert_close(patch_distillation(student, teacher, everything), expected)
        for chosen in (slice(None), nothing):
            student.grad = None
            loss = patch_distillation(student[chosen], teacher[chosen], nothing)
            loss.backward()
            assert loss.item() == 0
            assert student.grad is not None
            assert (student.grad == 0).all()

    def test_visible_patches_do_not_matter(self) -> None:
        student, teacher, hidden = randn(3, 9, 6).requires_grad_(), randn(3, 9, 6, seed=1).softmax(-1), some(3, 9)
        patch_distillation(student, teacher, hidden).backward()
        assert student.grad is not None
        assert (student.grad[~hidden] == 0).all()
        assert (student.grad[hidden] != 0).any()

    def test_gradcheck(self) -> None:
        student, teacher, hidden = randn(2, 4, 5).requires_grad_(), randn(2, 4, 5, seed=1).softmax(-1), some(2, 4)
        assert 0 < hidden.sum() < 8
        assert torch.autograd.gradcheck(lambda x: patch_distillation(x, teacher, hidden, 0.5), (student,))

    def test_extreme_logits_under_autocast(self) -> None:
        student, hidden = (1e4 * randn(2, 4, 5)).bfloat16().requires_grad_(), some(2, 4)
        with torch.autocast("cpu", torch.bfloat16):
            loss = patch_distillation(student, sinkhorn(1e4 * randn(2, 4, 5, seed=1), valid=hidden), hidden)
        loss.backward()
        assert student.grad is not None
        assert loss.isfinite()
        assert student.grad.isfinite().all()

    @pytest.mark.parametrize(
        ("student", "teacher", "hidden", "words"),
        [
            ((2, 4, 8), (2, 4, 9), (2, 4), "student has 8 prototypes and the teacher 9"),
            ((2, 4, 8), (2, 5, 8), (2, 4), r"student \[2, 4, 8\] and teacher \[2, 5, 8\] must both be"),
            ((2, 4, 8), (2, 4, 8), (2, 5), r"hidden is \[2, 5\] and the patches \[2, 4\]"),
            ((2, 4, 8), (2, 4, 8), (8,), r"torch.bool \[8\]; it must be bool \[B, N\]"),
            ((3, 8), (3, 8), (2, 4), "8 patches are hidden, but logits of 3 are given"),
            ((8,), (8,), (2, 4), r"student \[8\] and teacher \[8\] must both be"),
        ],
    )
    def test_errors(
        self, student: tuple[int, ...], teacher: tuple[int, ...], hidden: tuple[int, ...], words: str
    ) -> None:
        with pytest.raises(ValueError, match=words):
            patch_distillation(torch.zeros(student), torch.zeros(teacher), torch.ones(hidden, dtype=torch.bool))

    def test_errors_of_values(self) -> None:
        hidden = torch.ones(2, 4, dtype=torch.bool)
        with pytest.raises(ValueError, match="temperature is -1; it must be positive"):
            patch_distillation(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8), hidden, -1)
        with pytest.raises(ValueError, match="pass logits through"):
            patch_distillation(torch.zeros(2, 4, 8), randn(2, 4, 8), hidden)
        with pytest.raises(ValueError, match=r"torch.int64 \[2, 4\]; it must be bool"):
            patch_distillation(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8), hidden.long())


def test_errors_of_centers() -> None:
    with pytest.raises(ValueError, match="center has 6 prototypes and the teacher 5"):
        sharpened(torch.zeros(4, 5), torch.zeros(6), 0.04)
    with pytest.raises(ValueError, match="temperature is 0; it must be positive"):
        sharpened(torch.zeros(4, 5), torch.zeros(5), 0)
    with pytest.raises(ValueError, match=r"center is \[5\] and the mean of the teacher's logits \[4, 5\]"):
        moved_center(torch.zeros(5), torch.zeros(4, 5), 0.9)
    with pytest.raises(ValueError, match=r"momentum is 1.5; it lies in \[0, 1\]"):
        moved_center(torch.zeros(5), torch.zeros(5), 1.5)
