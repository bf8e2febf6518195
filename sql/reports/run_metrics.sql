-- one row per split and metric of the model $model_id in the run $run_id, beside its control
with used as (
    select distinct corpus.split, corpus.metric, corpus.value, corpus.images
    from source_run_entries as link
    join source_files as file using (entry_id)
    join source_corpus as corpus on corpus.file = file.path
    where link.run_id = $run_id and corpus.model_id = $model_id
)
select this.split, this.metric, this.value, control.value as control, this.images
from used as this
left join used as control on control.split = this.split and control.metric = this.metric || '_shuffled'
where not ends_with(this.metric, '_shuffled')
order by
    this.split,
    list_position(
        ['cider', 'bleu_4', 'bleu_3', 'bleu_2', 'bleu_1', 'rouge_l', 'distinct_1', 'distinct_2', 'vocabulary',
         'unique_share', 'mean_length'],
        this.metric
    ) nulls last,
    this.metric;
