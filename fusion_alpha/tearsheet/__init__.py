"""A report on one strategy as pictures and as a page; see `fusion_alpha.report` for its figures."""
