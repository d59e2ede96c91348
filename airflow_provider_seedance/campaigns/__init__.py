"""
Campaigns: many renders in one task.

What is asked (:mod:`.requests`), what it will cost (:mod:`.estimates`), what is remembered of each render
(:mod:`.ledger`), how the renders stand (:mod:`.renders`), and the file that lists how they ended
(:mod:`.manifest`). The operator that brings these together is in
:mod:`airflow_provider_seedance.operators.batch`.
"""
