"""Executors: where candidates are evaluated. `processes` is the one of a single machine.

What any of them promises to `hwnas.search.search`, beyond `concurrent.futures.Executor`:

- `submit(evaluate, trial)` is called for as many trials at once as there are workers, no more;
- an `initializer` is run once in every worker before its first trial; its time is not a trial's;
- what the evaluation reports (`progress.report`) arrives at `on_progress(number, share)`;
- a future fails with an error of `errors`; an accident is tried again by the search, not here;
- leaving the `with` block ends what runs at once.
"""
