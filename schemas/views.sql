-- Every table of the pipeline as a view LAYER.TABLE, and what one asks of them most. What a column means and its
-- unit: schemas/TABLE.yaml. Paths are relative to the repository's root.
--
--     make sql                                        asks line by line; end a query with ;
--     make sql RUN="from contradictions limit 5"      or a file: make sql RUN=docs/questions.sql
--     duckdb -init schemas/views.sql                  the same views in DuckDB's own shell
--
-- A view whose file is not there (no run yet, another source) is left out. Views read the files at each query, so
-- they are never older than the last `dvc repro`.

create schema raw;
create schema truth;
create schema interim;
create schema processed;
create schema features;
create schema predictions;

create view raw.manifest as from 'data/raw/manifest.json';

-- SIMULATED: what the laboratory planted. No rows for real sources.
create view truth.truth as from 'data/truth/truth.parquet';

create view interim.benchmark as from 'data/interim/benchmark.parquet';
create view interim.news as from 'data/interim/news.parquet';
create view interim.prices as from 'data/interim/prices.parquet';
create view interim.rejected as from 'data/interim/rejected.parquet';

create view processed.news_bars as from 'data/processed/news_bars.parquet';
create view processed.panel as from 'data/processed/panel.parquet';

create view features.contradiction as from 'data/features/contradiction.parquet';
create view features.technical as from 'data/features/technical.parquet';
create view features.text as from 'data/features/text.parquet';

create view predictions.predictions as from 'data/predictions/predictions.parquet';
create view predictions.stocknet as from 'data/predictions/stocknet.parquet';

create view sectors as from 'conf/sectors.csv';

-- One row per contradiction with what followed it, before costs.
--   with_price_bps  target_ret in basis points, the sign turned for overhype: above 0 the price went on in its
--                   direction, below 0 it came back to what the text said
--   hour_new_york   hour in New York at which the latest news item of the bar was published
create view contradictions as
select
    c.ticker,
    c.bar_close_utc,
    p.session,
    p.split,
    c.kind,
    c.cs,
    c.severity,
    c.n_news,
    coalesce(s.sector, 'unknown') as sector,
    n.hour_new_york,
    p.target_ret,
    if(c.kind = 'underhype', 1, -1) * p.target_ret * 1e4 as with_price_bps
from features.contradiction c
join processed.panel p using (ticker, bar_close_utc)
left join sectors s using (ticker)
left join (
    select
        ticker,
        bar_close_utc,
        hour(max(published_utc) at time zone 'America/New_York') as hour_new_york
    from processed.news_bars
    group by ticker, bar_close_utc
) n using (ticker, bar_close_utc)
where c.kind <> 'none';

-- Standard error of a mean of independent values.
create macro standard_error(x) as stddev_samp(x) / sqrt(count(x));
