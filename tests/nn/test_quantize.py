"""Residual quantizers: the search, the sum of codewords, the averages that train them."""

import numpy as np
import pytest
import torch

from audiomask.nn.quantize import FactorizedQuantizer, ResidualQuantizer, ScalarQuantizer, SplitQuantizer


def quantizer(**changes) -> ResidualQuantizer:
    torch.manual_seed(0)
    arguments = {"dim": 6, "stages": 3, "levels": 16, "groups": 2, "expire": 0.0} | changes
    return ResidualQuantizer(**arguments)


def z(batch=2, dim=6, frames=50, seed=1):
    return torch.randn(batch, dim, frames, generator=torch.Generator().manual_seed(seed))


def nearest(q: ResidualQuantizer, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes and sum of codewords by distances in double, vector for vector."""
    book, width = q.embed.double().numpy(), q.dim // q.groups
    codes, total = np.zeros((len(x), q.books, x.shape[2]), int), np.zeros(x.shape)
    for b, group, t in np.ndindex(len(x), q.groups, x.shape[2]):
        part = slice(group * width, (group + 1) * width)
        rest = x[b, part, t].double().numpy()
        for stage in range(q.stages):
            k = ((book[stage, group] - rest) ** 2).sum(1).argmin()
            codes[b, stage * q.groups + group, t] = k
            total[b, part, t] += book[stage, group, k]
            rest = rest - book[stage, group, k]
    return codes, total


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_codes_are_those_of_the_nearest_codewords_stage_by_stage(groups):
    q = quantizer(groups=groups)
    codes, total = nearest(q, z())
    assert np.array_equal(q.encode(z()).numpy(), codes)
    np.testing.assert_allclose(q.decode(q.encode(z())).numpy(), total, atol=1e-6)


def test_equally_near_codewords_give_the_lower_index():
    q = quantizer(stages=1, groups=1, dim=2, levels=4)
    q.embed = torch.tensor([[0.0, 5.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]).view(1, 1, 4, 2)
    codes = q.encode(torch.tensor([[0.0, 2.0, -2.0], [0.0, 0.0, 0.0]])[None])
    assert codes.tolist() == [[[1, 1, 2]]]
    for frames in (1, 2, 7, 64):  # at every length of a call
        assert q.encode(torch.zeros(3, 2, frames)).unique().tolist() == [1]


@pytest.mark.parametrize("certain", [1, 2, 4])
def test_stages_that_no_row_wants_are_left_out(certain):
    q = quantizer(stages=5)
    codes = q.encode(z())
    q.certain = certain
    assert torch.equal(q.encode(z()), codes)
    for books in range(1, 11):
        stages = certain
        while stages * 2 < books:  # of two groups
            stages *= 2
        found = q.encode(z(), torch.tensor([1, books]))
        assert torch.equal(found[:, : 2 * stages], codes[:, : 2 * stages])
        assert (found[:, 2 * stages :] == -1).all()


def test_stages_are_optional_where_they_cost_more_than_a_branch():
    assert ResidualQuantizer(128, 32).certain == 2  # EnCodec
    assert ResidualQuantizer(48, 6, groups=3).certain == 4  # Gist


def test_codes_below_zero_add_nothing():
    q = quantizer()
    codes = q.encode(z())
    some = codes.clone()
    some[:, 3:] = -1
    part = sum(
        torch.nn.functional.embedding(codes[:, i], q.embed[divmod(i, 2)]).mT
        for i in (0, 2)  # books 0 and 2 are group 0 of stages 0 and 1
    )
    torch.testing.assert_close(q.decode(some)[:, :3], part)
    assert not q.decode(torch.full_like(codes, -1)).any()


def test_distances_are_those_of_what_remains():
    q = quantizer()
    codes = q.encode(z())
    found = q.distances(z(), codes)
    _, total = nearest(q, z())
    rest = (z().double().numpy() - total) ** 2
    np.testing.assert_allclose(found[:, -2].numpy(), rest[:, :3].sum(1), rtol=1e-4)
    np.testing.assert_allclose(found[:, -1].numpy(), rest[:, 3:].sum(1), rtol=1e-4)
    assert (q.distances(z(), (codes + 1) % 16)[:, 0] > found[:, 0]).all()


def test_training_quantizes_as_the_codes_do_and_passes_the_gradient_straight():
    q = quantizer().eval()
    x = z().requires_grad_()
    y, commitment = q(x)
    torch.testing.assert_close(y, q.decode(q.encode(x)))
    (y * 3).sum().backward()
    assert (x.grad == 3).all()
    assert commitment > 0


def test_each_row_has_its_number_of_codebooks():
    q = quantizer().eval()
    codes = q.encode(z())
    codes[0, 2:], codes[1, 5:] = -1, -1
    y, _ = q(z(), torch.tensor([2, 5]))
    torch.testing.assert_close(y, q.decode(codes))


@pytest.mark.parametrize("whole", [True, False])
def test_the_commitment_teaches_all_stages_only_with_one_estimator(whole):
    """With one at each stage the gradient of the later stages vanishes (encodec, issue 25)."""
    gradients = []
    for stages in (1, 3):
        q = quantizer(groups=1, global_estimator=whole).eval()
        x = z().requires_grad_()
        q(x, torch.tensor([stages, stages]))[1].mul(stages).backward()
        gradients.append(x.grad)
    assert torch.allclose(*gradients) != whole


def test_codebooks_begin_as_means_and_follow_what_they_code():
    q = quantizer(stages=1, groups=1, dim=2, levels=4, means=20).train()
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    g = torch.Generator().manual_seed(3)
    x = centres[torch.randint(4, (2, 200), generator=g)] + 0.1 * torch.randn(2, 200, 2, generator=g)
    assert not q.inited.any()
    for _ in range(4):  # some starts leave two codewords in one cluster
        q.inited.zero_()
        q(x.mT)
        found = (torch.cdist(centres, q.embed[0, 0]).amin(1) < 0.1).all()
        if found:
            break
    assert q.inited.all()
    assert found
    moved = x + 1
    for _ in range(600):
        q(moved.mT)
    assert (torch.cdist(centres + 1, q.embed[0, 0]).amin(1) < 0.1).all()


def test_averages_are_the_exponential_ones_of_the_batches():
    q = quantizer(stages=1, groups=1, dim=2, levels=2, decay=0.9, expire=0.0).train()
    q.inited.fill_(True)
    q.embed = torch.tensor([[[[0.0, 0.0], [4.0, 4.0]]]])
    q.embed_avg = q.embed * 3.0
    q.cluster_size = torch.full((1, 1, 2), 3.0)
    q(torch.tensor([[[1.0, 0.0, 5.0], [0.0, 1.0, 5.0]]]))
    size = torch.tensor([0.9 * 3 + 0.1 * 2, 0.9 * 3 + 0.1 * 1])
    total = torch.tensor([[0.1, 0.1], [0.9 * 12 + 0.5, 0.9 * 12 + 0.5]])
    torch.testing.assert_close(q.cluster_size[0, 0], size)
    torch.testing.assert_close(q.embed[0, 0], total / size[:, None], rtol=1e-4, atol=1e-4)


def test_a_codeword_that_codes_nothing_starts_anew_and_stays():
    q = quantizer(stages=1, groups=1, dim=2, levels=8, expire=0.5, decay=0.5).train()
    q.inited.fill_(True)
    q.embed[0, 0] = 100.0
    q.embed_avg[0, 0] = 100.0
    x = z(dim=2, frames=400)
    for _ in range(20):
        q(x)
    assert q.embed.abs().max() < 5
    assert len(q.encode(x).unique()) == 8
    before = q.embed.clone()
    q(x)
    assert (q.embed - before).abs().max() < 0.5


def test_evaluation_leaves_the_codebooks_alone():
    q = quantizer().eval()
    before = {name: x.clone() for name, x in q.state_dict().items()}
    q(z())
    assert all(torch.equal(x, before[name]) for name, x in q.state_dict().items())


def test_channels_must_divide_among_the_groups():
    with pytest.raises(ValueError, match="7 channels cannot be divided among 2 groups"):
        quantizer(dim=7)


# --- split quantizers ---------------------------------------------------------------------------------------


def split() -> SplitQuantizer:
    torch.manual_seed(0)
    return SplitQuantizer(channels=6, dim=3, stages=4, levels=16)


def test_both_stacks_code_the_same_vectors():
    q, x = split(), z()
    codes = q.encode(x)
    assert torch.equal(codes[:, :1], q.first.encode(x))
    assert torch.equal(codes[:, 1:], q.rest.encode(x))
    none = torch.full_like(codes, -1)
    alone = torch.cat([codes[:, :1], none[:, 1:]], 1), torch.cat([none[:, :1], codes[:, 1:]], 1)
    torch.testing.assert_close(q.decode(alone[0]) + q.decode(alone[1]), q.decode(codes))
    assert not q.decode(none).any()
    distances = q.distances(x, codes)
    for i, stack in ((0, q.first), (1, q.rest)):
        inside = stack.into(x) - stack.embed[0, 0][codes[:, i]].mT
        torch.testing.assert_close(distances[:, i], inside.square().sum(1))


def test_books_are_counted_over_both_stacks():
    q, x = split(), z()
    every = q.encode(x)
    assert torch.equal(q.encode(x, torch.tensor([1, 4])), every)
    some = q.encode(x, torch.tensor([1, 3]))
    assert torch.equal(some[:, :3], every[:, :3])
    assert ((some[:, 3] == -1) | (some[:, 3] == every[:, 3])).all()
    q = q.train()
    q.first.inited.fill_(True)
    q.rest.inited.fill_(True)
    x.requires_grad_()
    y, commitment = q(x, torch.tensor([1, 1]))
    (y.square().mean() + commitment).backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_each_stack_needs_a_book():
    with pytest.raises(ValueError, match="4 of 4 codebooks in the first stack"):
        SplitQuantizer(6, 3, 4, 16, first=4)


# --- number by number ---------------------------------------------------------------------------------------


def test_scalar_codes_come_back_within_half_a_step():
    q = ScalarQuantizer(4).eval()
    z = 60 * torch.randn(2, 4, 500, generator=torch.Generator().manual_seed(0))
    codes = q.encode(z)
    assert (codes.min() >= 0, codes.max() < q.levels, codes.dtype) == (True, True, torch.int64)
    u = q._even(z)
    assert (u - (codes - q.top)).abs().max() <= 0.5
    assert torch.equal(q.encode(q.decode(codes)), codes)
    torch.testing.assert_close(q(z)[0], q.decode(codes))
    torch.testing.assert_close(q.distances(z, codes), (u - (codes - 127)).square())
    assert (q.distances(z, (codes + 1).clamp_max(254)) >= q.distances(z, codes)).all()


def test_a_gaussian_of_the_published_deviation_uses_all_levels_alike():
    q = ScalarQuantizer(1)
    z = 127 / 1.85 * torch.randn(1, 1, 200_000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(q.encode(z).flatten(), minlength=255).float()
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()


def test_extremes_take_the_last_levels_and_no_code_is_nothing():
    q = ScalarQuantizer(3)
    codes = q.encode(torch.tensor([[[-1e9], [0.0], [1e9]]]))
    assert codes.flatten().tolist() == [0, 127, 254]
    assert q.decode(codes).isfinite().all()
    assert q.decode(torch.full((1, 3, 2), -1)).eq(0).all()


def test_noise_in_training_is_even_and_the_gradient_passes():
    q = ScalarQuantizer(2).train()
    z = torch.zeros(1, 2, 20_000, requires_grad=True)
    torch.manual_seed(0)
    made, commitment = q(z)
    noise = q._even(made.detach())
    assert -0.5 <= noise.min() < -0.49
    assert 0.49 < noise.max() <= 0.5
    assert noise.std() == pytest.approx(12**-0.5, rel=0.02)
    made.sum().backward()
    assert z.grad.mean() == pytest.approx(1, abs=0.01)
    assert commitment == 0
    assert q(z, torch.tensor([1]))[0][:, 1].eq(0).all()


def test_codes_have_two_bits_at_least():
    with pytest.raises(ValueError, match="1 bits"):
        ScalarQuantizer(2, bits=1)


# --- factorized quantizers ----------------------------------------------------------------------------------


def factorized(**changes) -> FactorizedQuantizer:
    torch.manual_seed(0)
    return FactorizedQuantizer(**{"channels": 6, "dim": 3, "stages": 4, "levels": 16} | changes)


@torch.no_grad()
def test_codewords_are_chosen_by_angle():
    """Whatever their length, each for what the stages before it leave."""
    q, x = factorized(), z()
    q.words *= torch.rand(4, 16, 1) + 0.1
    codes, rest = q.encode(x), x
    for stage in range(4):
        e = q.into[stage](rest).mT
        cosine = torch.cosine_similarity(e[:, :, None], q.words[stage], 3)
        assert torch.equal(codes[:, stage], cosine.argmax(2))
        torch.testing.assert_close(q.distances(x, codes)[:, stage], 2 - 2 * cosine.amax(2), rtol=0, atol=1e-5)
        rest = rest - q.out[stage](q.words[stage][codes[:, stage]].mT)
    torch.testing.assert_close(q.decode(codes), x - rest)
    none = torch.full_like(codes, -1)
    assert not q.decode(none).any()
    assert not q.distances(x, none).any()
    some = torch.cat([codes[:, :2], none[:, 2:]], 1)
    torch.testing.assert_close(q.eval()(x, torch.tensor([2, 2]))[0], q.decode(some))


def test_rows_learn_with_their_books_only():
    q, x = factorized(), z()
    x.requires_grad_()
    y, loss = q(x, torch.tensor([1, 3]))
    (y.square().mean() + loss).backward()
    assert x.grad.isfinite().all()
    assert [bool(words.any()) for words in q.words.grad] == [True, True, True, False]
    with torch.no_grad():
        alone = [q(x[i : i + 1], torch.tensor([n]))[1] for i, n in enumerate((1, 3))]
    torch.testing.assert_close(loss.detach(), sum(alone) / 2)
