-- Five questions to the views of schemas/views.sql: make sql RUN=docs/questions.sql
--
-- They use train and dev rows. Every look at test makes its figures worth less, and the strategies were scored on it.
-- Stocks of one session move together, so each session counts once: mean_bps is the mean of the sessions' means, and
-- se_bps their standard error. Before costs. Many groups are compared: one of twenty is two errors from 0 by chance.

-- kind: Which contradictions paid?
with by_session as (
    select kind, session, count(*) as n, avg(with_price_bps) as bps
    from contradictions
    where split in ('train', 'dev') and with_price_bps is not null
    group by all
)
select
    kind,
    sum(n)::bigint as contradictions,
    count(*) as sessions,
    round(avg(bps), 1) as mean_bps,
    round(standard_error(bps), 1) as se_bps
from by_session
group by kind
order by kind;

-- sector: In which sectors?
with by_session as (
    select sector, session, count(*) as n, avg(with_price_bps) as bps
    from contradictions
    where split in ('train', 'dev') and with_price_bps is not null
    group by all
)
select
    sector,
    sum(n)::bigint as contradictions,
    count(*) as sessions,
    round(avg(bps), 1) as mean_bps,
    round(standard_error(bps), 1) as se_bps
from by_session
group by sector
order by sector;

-- severity: Does severity matter?
with by_session as (
    select least(floor(severity * 5) / 5, 0.8) as severity_from, session, count(*) as n, avg(with_price_bps) as bps
    from contradictions
    where split in ('train', 'dev') and with_price_bps is not null
    group by all
)
select
    severity_from,
    sum(n)::bigint as contradictions,
    count(*) as sessions,
    round(avg(bps), 1) as mean_bps,
    round(standard_error(bps), 1) as se_bps
from by_session
group by severity_from
order by severity_from;

-- hour: Does the hour of publication matter?
with by_session as (
    select hour_new_york, session, count(*) as n, avg(with_price_bps) as bps
    from contradictions
    where split in ('train', 'dev') and with_price_bps is not null
    group by all
)
select
    hour_new_york,
    sum(n)::bigint as contradictions,
    count(*) as sessions,
    round(avg(bps), 1) as mean_bps,
    round(standard_error(bps), 1) as se_bps
from by_session
group by hour_new_york
order by hour_new_york;

-- year: Was it so in every year?
with by_session as (
    select year(session) as year, session, count(*) as n, avg(with_price_bps) as bps
    from contradictions
    where split in ('train', 'dev') and with_price_bps is not null
    group by all
)
select
    year,
    sum(n)::bigint as contradictions,
    count(*) as sessions,
    round(avg(bps), 1) as mean_bps,
    round(standard_error(bps), 1) as se_bps
from by_session
group by year
order by year;
