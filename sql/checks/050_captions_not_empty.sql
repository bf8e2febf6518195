-- one row per caption that is empty though its ledger says ok, or that runs on for more than most_words words
-- severity: error
with odd as (  -- words are only counted where there may be too many: a word takes two characters or more
    select sample_key, model_id, file, coalesce(caption, '') as caption
    from source_captions
    where
        trim(coalesce(caption, ''), e' \t\r\n') = ''
        or length(caption) > 2 * coalesce(getvariable('most_words'), 200)
),
counted as (
    select sample_key, model_id, file, length(regexp_extract_all(caption, '\S+')) as words
    from odd
)
select sample_key, model_id, file, words
from counted
where
    words > coalesce(getvariable('most_words'), 200)
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
