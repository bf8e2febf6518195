-- a stage's name → its position in a run, 1 for the first
create macro stage_order(stage) as
    list_position(['land', 'download', 'embed', 'train', 'caption', 'evaluate', 'compare', 'publish'], stage);

comment on macro stage_order is 'Position of a stage in a run: land 1, download 2, embed 3, train 4, caption 5, evaluate 6, compare 7.';
