-- a path as DuckDB opened it → the path below the lake, which has `parts` parts
create macro lake_relative(path, parts) as
    array_to_string(list_slice(string_split(path, '/'), -parts, -1), '/');

comment on macro lake_relative is 'The last parts of a path: what stands in manifests, wherever the lake was opened from.';
