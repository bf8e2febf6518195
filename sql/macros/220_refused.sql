-- one row per stage, status and reason for which images fell away, the most frequent first, with an example of each
-- Numbers in reasons are written N and keys KEY, so that "row 17" and "row 18" are one reason; but for HTTP's codes.
create macro refused(batch := '') as table
with refusals as (
    select
        outcome.*,
        case
            when contains(outcome.reason, 'HTTP') then outcome.reason
            else regexp_replace(
                regexp_replace(outcome.reason, '\b[0-9a-f]{8}-\d{7,}\b', 'KEY', 'g'), '\d+', 'N', 'g'
            )
        end as kind
    from ledger_history as outcome
    where outcome.status <> 'ok' and (batch = '' or outcome.batch_id = batch)
)
select
    outcome.stage,
    outcome.status,
    outcome.kind as reason,
    count(distinct outcome.sample_key) as images,
    count(distinct outcome.batch_id) as batches,
    min_by(outcome.reason, outcome.sample_key) as example_reason,
    min_by(outcome.image_url, outcome.sample_key) as example_url,
    min(outcome.sample_key) as example_key
from refusals as outcome
group by outcome.stage, outcome.status, outcome.kind
order by images desc, stage_order(outcome.stage), outcome.status, reason;

comment on macro table refused is 'One row per stage, status and reason for which images fell away (of one batch, or of all): stage, status, reason (numbers in it written N, keys KEY), images, batches, and of one of them example_reason, example_url, example_key.';
