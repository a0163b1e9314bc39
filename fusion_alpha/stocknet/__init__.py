"""The StockNet benchmark [Xu and Cohen 2018]: many systems, one protocol, no choice made on test.

`protocol` in fusion_alpha/benchmark.py says which ticker-days are asked about. Here: the layers that the systems read
(`layers`, `tweets`, `features`), the choice of every setting by purged walk-forward inside train + dev (`walkforward`),
the systems (`tabular`, `networks`, `ensemble`), what is run for whom (`systems`, `runs`), and the figures (`scores`).
"""
