-- Grain: one row for each image: BLEU-1 to BLEU-4 of that image alone.
-- The geometric mean of the precisions of orders 1 to n, times the brevity penalty exp(1 - 1/ratio) where ratio < 1.
-- 1e-15 and 1e-9 are the reference implementation's guards against zero; they show in every value.
-- Reads bleu_counts.
create or replace temp table bleu_per_image as
with terms as (
    select
        image,
        (correct_1 + 1e-15::double) / (guessed_1 + 1e-9::double) as precision_1,
        (correct_2 + 1e-15::double) / (guessed_2 + 1e-9::double) as precision_2,
        (correct_3 + 1e-15::double) / (guessed_3 + 1e-9::double) as precision_3,
        (correct_4 + 1e-15::double) / (guessed_4 + 1e-9::double) as precision_4,
        (candidate_length + 1e-15::double) / (reference_length + 1e-9::double) as ratio,
        case when ratio < 1 then exp(1 - 1 / ratio) else 1 end as penalty
    from bleu_counts
)
select
    image,
    precision_1 * penalty as bleu_1,
    pow(precision_1 * precision_2, 1::double / 2) * penalty as bleu_2,
    pow(precision_1 * precision_2 * precision_3, 1::double / 3) * penalty as bleu_3,
    pow(precision_1 * precision_2 * precision_3 * precision_4, 1::double / 4) * penalty as bleu_4
from terms;
