-- one row: how the captions of the model $model_id differ from those that it learned from
with embedded as (
    select distinct sample_key, batch_id
    from ledger_history
    where stage = 'embed' and status = 'ok'
),
learned as (
    select lower(unnest(urls.captions)) as caption
    from source_urls as urls
    join embedded using (sample_key)
    where
        list_contains((select batch_ids from models where model_id = $model_id), embedded.batch_id)
        and urls.split in ('train', 'restval')
),
written as (
    select lower(caption) as caption, split in ('train', 'restval') as has_taught
    from captions
    where model_id = $model_id
),
learned_words as (select distinct unnest(regexp_extract_all(caption, '[\p{L}\p{N}]+')) as word from learned),
written_words as (select distinct unnest(regexp_extract_all(caption, '[\p{L}\p{N}]+')) as word from written),
commonest as (select caption, count(*) as images from written group by caption order by images desc, caption limit 1)
select
    (select count(*) from learned) as learned_captions,
    (select count(*) from learned_words) as learned_words,
    (select avg(len(regexp_extract_all(caption, '[\p{L}\p{N}]+'))) from learned) as learned_length,
    (select count(*) from written) as written_captions,
    (select count(distinct caption) from written) as written_different,
    (select count(*) from written_words) as written_words,
    (select avg(len(regexp_extract_all(caption, '[\p{L}\p{N}]+'))) from written) as written_length,
    (select max(len(regexp_extract_all(caption, '[\p{L}\p{N}]+'))) from written) as written_longest,
    (select count(*) from written where has_taught) as taught,
    (select count(*) from written where has_taught and caption in (select caption from learned)) as taught_repeated,
    (select count(*) from written where not has_taught) as unseen,
    (select count(*) from written where not has_taught and caption in (select caption from learned))
        as unseen_repeated,
    (select caption from commonest) as commonest,
    (select images from commonest) as commonest_images,
    (select count(*) from learned where regexp_matches(caption, '\b(man|men|boy|boys|male|guy)\b')) as learned_men,
    (select count(*) from learned where regexp_matches(caption, '\b(woman|women|girl|girls|female|lady)\b'))
        as learned_women,
    (select count(*) from written where regexp_matches(caption, '\b(man|men|boy|boys|male|guy)\b')) as written_men,
    (select count(*) from written where regexp_matches(caption, '\b(woman|women|girl|girls|female|lady)\b'))
        as written_women;
