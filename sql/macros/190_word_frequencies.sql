-- one row per word of a model's captions ('' for production), the most frequent first, beside the references
-- Words are lower-cased runs of letters and digits. `share` is that of captions with the word; `reference_share` that of
-- reference captions of the same images with it: a word with a much larger share is one that the model falls back on.
create macro word_frequencies(model := '') as table
with written as (
    select caption.sample_key, regexp_extract_all(lower(caption.caption), '[\p{L}\p{N}]+') as words
    from captions as caption
    where caption.model_id = chosen_model(model)
),
uses as (
    select words.word, count(*) as uses, count(distinct words.sample_key) as captions
    from (select written.sample_key, unnest(written.words) as word from written) as words
    group by words.word
),
reference_captions as (
    select row_number() over () as number, regexp_extract_all(lower(landed.caption), '[\p{L}\p{N}]+') as words
    from (
        select unnest(image.captions) as caption
        from source_urls as image
        where image.sample_key in (select written.sample_key from written)
    ) as landed
),
reference_uses as (
    select words.word, count(distinct words.number) as captions
    from (select known.number, unnest(known.words) as word from reference_captions as known) as words
    group by words.word
)
select
    uses.word,
    uses.uses,
    uses.captions,
    uses.captions / (select count(*) from written) as share,
    coalesce(reference_uses.captions, 0) / nullif((select count(*) from reference_captions), 0) as reference_share
from uses
left join reference_uses on reference_uses.word = uses.word
order by uses.uses desc, uses.word;

comment on macro table word_frequencies is 'One row per word of a model''s captions: word, uses, captions (with it), share (of captions with it), reference_share (of the same images'' reference captions with it).';
