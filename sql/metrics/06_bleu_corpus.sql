-- Grain: one row: BLEU-1 to BLEU-4 over all images. The counts are summed before anything is divided, so this is not
-- the mean of the images' values. Guards and penalty as in 05_bleu_per_image.sql.
-- Reads bleu_counts.
create or replace temp table bleu_corpus as
with terms as (
    select
        (sum(correct_1) + 1e-15::double) / (sum(guessed_1) + 1e-9::double) as precision_1,
        (sum(correct_2) + 1e-15::double) / (sum(guessed_2) + 1e-9::double) as precision_2,
        (sum(correct_3) + 1e-15::double) / (sum(guessed_3) + 1e-9::double) as precision_3,
        (sum(correct_4) + 1e-15::double) / (sum(guessed_4) + 1e-9::double) as precision_4,
        (sum(candidate_length) + 1e-15::double) / (sum(reference_length) + 1e-9::double) as ratio,
        case when ratio < 1 then exp(1 - 1 / ratio) else 1 end as penalty
    from bleu_counts
)
select
    precision_1 * penalty as bleu_1,
    pow(precision_1 * precision_2, 1::double / 2) * penalty as bleu_2,
    pow(precision_1 * precision_2 * precision_3, 1::double / 3) * penalty as bleu_3,
    pow(precision_1 * precision_2 * precision_3 * precision_4, 1::double / 4) * penalty as bleu_4
from terms;
