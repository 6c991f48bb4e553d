"""Whether the figures of ``medidiff evaluate`` see damage, and rank it: ten kinds, four amounts each.

    python -m benchmarks.set_metrics run --data ../shared/data --out runs/set-metrics
    python -m benchmarks.set_metrics show runs/set-metrics

Half of the training people stand for the reference, the other half for a set that is spoiled more and more. People who
are held out for final scores are not touched. A row a kind, amount and figure; a run that was killed goes on.
"""
