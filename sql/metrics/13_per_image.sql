-- Grain: one row for each image: its key and each metric.
-- Reads candidates with their keys (00_candidates.sql), bleu_per_image, cider_per_image and rouge_l_per_image (image
-- integer, value double), which no statement makes: clipcap.metrics.rouge does.
create or replace temp view per_image as
select key, bleu_1, bleu_2, bleu_3, bleu_4, rouge_l_per_image.value as rouge_l, cider_per_image.value as cider
from candidates
join bleu_per_image using (image)
join rouge_l_per_image using (image)
join cider_per_image using (image);
