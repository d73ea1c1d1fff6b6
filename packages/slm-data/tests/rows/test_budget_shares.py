"""Invariants of token-budget plans: the share of each process."""

from hypothesis import example, given

from slm_testing.data.budget_cases import SEVERAL_WINDOWS, SINGLE_ROW_BATCHES, Case, cases, rows_in, shares_of, steps_of


@given(cases())
@example(SEVERAL_WINDOWS._replace(ranks=5))
@example(SINGLE_ROW_BATCHES._replace(ranks=4))
def test_shares_of_a_step_contain_each_of_its_rows_once(case: Case) -> None:
    plan = case.plan()
    for step, (_, _, planned) in enumerate(steps_of(plan)):
        shared = [batch for share in shares_of(plan, step, case.ranks) for batch in share]
        assert sorted(rows_in(shared)) == sorted(rows_in(planned))
        runs = {row: (number, position) for number, batch in enumerate(planned) for position, row in enumerate(batch)}
        for batch in shared:  # split, never mixed
            number, position = runs[batch[0]]
            assert planned[number][position : position + len(batch)] == batch


@given(cases())
@example(SEVERAL_WINDOWS._replace(ranks=5))
@example(SINGLE_ROW_BATCHES._replace(ranks=4, tokens=30))
def test_shares_have_equally_many_micro_batches_unless_only_single_rows_are_left(case: Case) -> None:
    plan = case.plan()
    for step in range(len(plan)):
        shares = shares_of(plan, step, case.ranks)
        counts = [len(share) for share in shares]
        assert min(counts) >= 1
        assert max(counts) == plan.max_share_size(step, case.ranks)
        if max(counts) > min(counts):
            assert max(counts) - min(counts) == 1
            assert all(len(batch) == 1 for share in shares for batch in share)


@given(cases())
def test_a_share_starts_with_its_largest_micro_batch(case: Case) -> None:
    plan, lengths = case.plan(), case.row_lengths
    for step in range(len(plan)):
        for share in shares_of(plan, step, case.ranks):
            slots = [len(batch) * lengths[batch[0]] for batch in share]
            assert slots == sorted(slots, reverse=True)


@given(cases(whole_epochs=True, many_ranks=False))
@example(SEVERAL_WINDOWS)
def test_steps_do_not_depend_on_the_number_of_processes_if_each_has_a_row(case: Case) -> None:
    alone = case.plan()
    fewest = min(len(rows_in(batches)) for _, _, batches in steps_of(alone))
    for ranks in range(1, min(5, fewest) + 1):
        assert steps_of(case.plan(ranks=ranks)) == steps_of(alone)


@given(cases(whole_epochs=True))
@example(SINGLE_ROW_BATCHES._replace(ranks=3))
def test_steps_with_too_few_rows_for_the_processes_are_merged_whole(case: Case) -> None:
    alone, joined = case.plan(ranks=1), case.plan()
    assert joined.rows.tolist() == alone.rows.tolist()
    assert joined.micro_first.tolist() == alone.micro_first.tolist()
    assert set(joined.step_first.tolist()) <= set(alone.step_first.tolist())
    assert all(len(rows_in(batches)) >= case.ranks for _, _, batches in steps_of(joined))
