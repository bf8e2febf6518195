-- Grain: one row for each image and order n: value is BLEU-n of that image alone.
-- The geometric mean of the precisions of orders 1 to n, times the brevity penalty exp(1 - 1/ratio) where ratio < 1.
-- 1e-15 and 1e-9 are the reference implementation's guards against zero; they show in every value.
-- Reads bleu_counts.
create or replace temp table bleu_per_image as
with terms as (
    select
        key,
        n,
        product((correct + 1e-15::double) / (guessed + 1e-9::double)) over orders_up_to_n as precisions,
        (candidate_length + 1e-15::double) / (reference_length + 1e-9::double) as ratio
    from bleu_counts
    window orders_up_to_n as (partition by key order by n)
)
select key, n, pow(precisions, 1::double / n) * case when ratio < 1 then exp(1 - 1 / ratio) else 1 end as value
from terms;
