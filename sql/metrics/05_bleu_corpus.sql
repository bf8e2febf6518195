-- Grain: one row for each order n: value is BLEU-n over all images. The counts are summed before anything is divided,
-- so this is not the mean of the images' values. Guards and penalty as in 04_bleu_per_image.sql.
-- Reads bleu_counts.
create or replace temp table bleu_corpus as
with totals as (
    select
        n,
        sum(correct)::double as correct,
        sum(guessed)::double as guessed,
        (sum(candidate_length) + 1e-15::double) / (sum(reference_length) + 1e-9::double) as ratio
    from bleu_counts
    group by n
),
terms as (
    select n, product((correct + 1e-15::double) / (guessed + 1e-9::double)) over (order by n) as precisions, ratio
    from totals
)
select n, pow(precisions, 1::double / n) * case when ratio < 1 then exp(1 - 1 / ratio) else 1 end as value
from terms;
