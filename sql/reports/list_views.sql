-- one row per view of the catalog (its sources left out)
select
    views.view_name as name,
    coalesce(views.comment, '') as comment,
    (
        select
            list(
                {'name': columns.column_name, 'type': columns.data_type, 'comment': coalesce(columns.comment, '')}
                order by columns.column_index
            )
        from duckdb_columns() as columns
        where columns.database_name = views.database_name and columns.table_name = views.view_name
    ) as columns
from duckdb_views() as views
where views.database_name = current_database() and not views.internal and not starts_with(views.view_name, 'source_')
order by name;
