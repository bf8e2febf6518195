-- one row per caption that is empty though its ledger says ok, or that runs on for more than 200 words
-- severity: error
with counted as (
    select sample_key, model_id, file, length(regexp_extract_all(coalesce(caption, ''), '\S+')) as words
    from source_captions
)
select sample_key, model_id, file, words
from counted
where
    words > 200
    or words = 0
    and not exists (
        from ledger_history as ledger
        where
            ledger.sample_key = counted.sample_key
            and ledger.model_id = counted.model_id
            and ledger.stage = 'caption'
            and ledger.status <> 'ok'
    )
order by sample_key, model_id;
