import pytest
import torch
from torch import nn
from torch.nn import functional

from vitrail.evaluation.dense_training import Examples, enlarged, fit, room_for, scheduled, summed_loss
from vitrail.nn.segmentation_heads import LinearSegmenter


def examples(seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(-1, 3, (4, 4, 6), generator=generator)
    return Examples(torch.randn(4, 5, 2, 3, generator=generator), truth)


def test_shares_give_the_loss_of_pixels_with_repeated_logits() -> None:
    logits, truth = torch.randn(4, 3, 2, 3), examples().truth
    cells = truth.reshape(4, 2, 2, 3, 2).permute(0, 1, 3, 2, 4).reshape(4, 2, 3, 4)
    shares = torch.stack([(cells == label).float().mean(-1) for label in range(3)], -1)
    repeated = logits.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = functional.cross_entropy(repeated, truth, ignore_index=-1, reduction="sum")
    torch.testing.assert_close(4 * summed_loss(logits, shares), expected)


def test_ids_are_compared_with_enlarged_logits() -> None:
    logits, truth = torch.randn(4, 3, 2, 3), examples().truth
    large = functional.interpolate(logits, (4, 6), mode="bilinear", align_corners=False)
    expected = functional.cross_entropy(large, truth, ignore_index=-1, reduction="sum")
    torch.testing.assert_close(summed_loss(logits, truth), expected)
    assert enlarged(logits, (2, 3)) is logits


def test_each_head_is_what_adam_alone_makes_of_it() -> None:
    rates = (1e-2, 3e-3)
    heads = nn.ModuleList(LinearSegmenter(5, 3, seed=1) for _ in rates)
    steps = [[examples(seed)] for seed in range(5)]
    fitted = fit(heads, steps, rates, 5, 3)
    for place, rate in enumerate(rates):
        alone = LinearSegmenter(5, 3, seed=1)
        optimizer = torch.optim.Adam(alone.parameters(), lr=rate)
        for number, ((part,),) in enumerate(zip(steps, strict=True)):
            large = functional.interpolate(alone(part.features), (4, 6), mode="bilinear")
            loss = functional.cross_entropy(large, part.truth, ignore_index=-1)
            assert fitted.losses[number, place] == pytest.approx(loss.item(), rel=1e-5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(alone.classifier.weight, heads[place].classifier.weight)  # type: ignore[union-attr]


def test_parts_of_a_batch_are_one_batch() -> None:
    """Parts with more labeled pixels weigh more, as they do in one piece."""
    whole = examples()
    whole.truth[0] = -1
    parts = [Examples(whole.features[a:b], whole.truth[a:b]) for a, b in ((0, 1), (1, 4))]
    heads = [nn.ModuleList([LinearSegmenter(5, 3)]) for _ in range(2)]
    fits = [fit(head, [step] * 3, [1e-2], 3, 3) for head, step in zip(heads, ([whole], parts), strict=True)]
    torch.testing.assert_close(fits[0].losses, fits[1].losses)
    torch.testing.assert_close(*(head[0].classifier.weight for head in heads))  # type: ignore[union-attr]
    assert fits[0].pixels.tolist() == [3 * int((whole.truth == label).sum()) for label in range(3)]


def test_a_head_that_diverges_harms_no_other() -> None:
    heads = nn.ModuleList(LinearSegmenter(5, 3) for _ in range(2))
    fitted = fit(heads, [[examples(seed)] for seed in range(6)], [1e-2, 1e37], 6, 3)
    assert fitted.losses[:, 0].isfinite().all()
    assert not fitted.losses[-1, 1].isfinite()


def test_nothing_to_learn_is_refused() -> None:
    empty = examples()._replace(truth=torch.full((4, 4, 6), -1))
    with pytest.raises(ValueError, match="no labeled pixel"):
        fit(nn.ModuleList([LinearSegmenter(5, 3)]), [[empty]], [1e-2], 1, 3)


def test_batches_without_a_label_change_nothing() -> None:
    empty = examples()._replace(truth=torch.full((4, 4, 6), -1))
    heads = [nn.ModuleList([LinearSegmenter(5, 3)]) for _ in range(2)]
    for head, steps in zip(heads, ([[examples()]], [[examples()], [empty]]), strict=True):
        assert len(fit(head, steps, [1e-2], 1, 3).losses) == 1
    torch.testing.assert_close(*(head[0].classifier.weight for head in heads))  # type: ignore[union-attr]


def test_the_schedule() -> None:
    assert scheduled(1e-2, None, 0.7) == 1e-2
    assert scheduled(1e-2, 1e-4, 0.0) == 1e-2
    assert scheduled(1e-2, 1e-4, 0.5) == pytest.approx((1e-2 + 1e-4) / 2)
    assert scheduled(1e-2, 1e-4, 1.0) == pytest.approx(1e-4)
    assert scheduled(1e-5, 1e-4, 0.5) == 1e-5


def test_memory_is_asked_for_before_it_is_taken() -> None:
    room_for(1000, (6, 6), 96, 9, 1.0)
    with pytest.raises(ValueError, match=r"118,287 training images take 38\.\d GB, and memory is 8: take images=24"):
        room_for(118_287, (14, 14), 384, 27, 8.0)
