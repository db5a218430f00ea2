//! k-NN statements of every shape, and how each should be answered.

/// How a statement should be answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// From the index, at every execution.
    Nominate,
    /// From PostgreSQL without keys, after candidates did not suffice.
    Exact,
    /// Untouched.
    Relay,
    /// In any way: it is right in each.
    Any,
}

use Way::{Any, Exact, Nominate, Relay};

/// Statement (`$1` is the query vector), its further parameters, and how it should be answered.
pub type Case = (&'static str, &'static [&'static str], Way);

pub const CASES: &[Case] = &[
    // the plain shape, in each metric
    (
        "select id from item order by embedding <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from item order by embedding <=> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from item order by embedding <#> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from item order by embedding <+> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id, $1 <+> embedding as d from item where price > 0 order by embedding <+> $1 limit $2",
        &["7"],
        Nominate,
    ),
    (
        "select * from item order by embedding <-> $1 limit 3",
        &[],
        Nominate,
    ),
    (
        "select id, embedding <-> $1 as distance from item order by embedding <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select name, 1 - (embedding <=> $1) as similarity from item order by embedding <=> $1 asc limit 5",
        &[],
        Nominate,
    ),
    (
        "select i.id, upper(i.name), i.price * 2 from item as i order by i.embedding <-> $1 limit 7",
        &[],
        Nominate,
    ),
    (
        "SELECT item.* FROM public.item ORDER BY item.embedding <-> $1 LIMIT 4;",
        &[],
        Nominate,
    ),
    (
        "select id /* a comment */ from item -- another\norder by embedding <-> $1 limit 5 -- the last",
        &[],
        Nominate,
    ),
    (
        "select id from item where true order by embedding <-> ($1) limit 5",
        &[],
        Nominate,
    ),
    (
        "select id from item order by embedding <-> $1 asc nulls last limit 5",
        &[],
        Any,
    ),
    (
        "select id from item order by $1 <-> embedding limit 5",
        &[],
        Any,
    ),
    (
        "select id, ctid, tableoid::regclass from item order by embedding <-> $1 limit 5",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 fetch first 5 rows only",
        &[],
        Any,
    ),
    // limits and offsets
    (
        "select id from item order by embedding <-> $1 limit 10 offset 5",
        &[],
        Nominate,
    ),
    (
        "select id from item order by embedding <-> $1 limit $2",
        &["10"],
        Nominate,
    ),
    (
        "select id from item order by embedding <-> $1 limit $2 offset $3",
        &["10", "20"],
        Nominate,
    ),
    (
        "select id from item order by embedding <-> $1 limit 1",
        &[],
        Nominate,
    ),
    (
        "select id from item order by embedding <-> $1 limit 0",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit -1",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit $2",
        &["-1"],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit 10 offset -1",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit null",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit all",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit 2 + 3",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit 5.4",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit '5'",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit 'five'",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit 100000",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit 9223372036854775807",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit 9223372036854775808",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit 5 offset 9223372036854775807",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit 5 offset 2998",
        &[],
        Any,
    ),
    ("select id from item order by embedding <-> $1", &[], Any),
    // filters that keep everything, a part, little, nothing
    (
        "select id from item where price > 0 order by embedding <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id, name from item where category = 3 order by embedding <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from item where category = $2 and name like $3 order by embedding <-> $1 limit $4",
        &["3", "item%", "10"],
        Nominate,
    ),
    (
        "select id from item where id % 1000 = 7 order by embedding <-> $1 limit 10",
        &[],
        Exact,
    ),
    (
        "select id from item where category = 99 order by embedding <=> $1 limit 10",
        &[],
        Exact,
    ),
    (
        "select id from item where category = 3 order by embedding <-> $1 limit 150",
        &[],
        Any,
    ),
    (
        "select id from item where category = 3 order by embedding <-> $1 limit 151",
        &[],
        Any,
    ),
    (
        "select id from item where false order by embedding <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from item where embedding <-> $1 < 0.9 order by embedding <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from item where id in (select id from plain where id < 100) order by embedding <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from item where exists (select 1 from plain p where p.id = item.id) order by embedding <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from item where coalesce(name, '') <> '' and id between 1 and 2000 order by embedding <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from item where stable_mod(id, 2) = 0 order by embedding <-> $1 limit 10",
        &[],
        Any,
    ),
    // tie-breaks
    (
        "select id from tie order by v <-> $1, id limit 10",
        &[],
        Any,
    ),
    (
        "select id from tie order by v <-> $1, id desc limit 35",
        &[],
        Any,
    ),
    (
        "select id, v <-> $1 from tie order by v <-> $1, id desc limit 10 offset 25",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1, name desc limit 10",
        &[],
        Any,
    ),
    // what an index does not hold
    (
        "select id from gap order by v <-> $1, id limit 10",
        &[],
        Any,
    ),
    (
        "select id, v <-> $1 from gap order by v <-> $1, id limit 50",
        &[],
        Any,
    ),
    (
        "select id, v <=> $1 from gap order by v <=> $1, id limit 50",
        &[],
        Any,
    ),
    (
        "select id, v <=> $1 from gap order by v <=> $1, id limit 60",
        &[],
        Any,
    ),
    (
        "select id from gap where v is null order by v <-> $1, id limit 60",
        &[],
        Any,
    ),
    // keys of every type, and of two columns
    (
        "select a, b from paired order by v <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select v from paired where a < 20 order by v <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from by_uuid order by v <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from by_text order by v <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from by_bigint order by v <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from by_smallint order by v <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from by_varchar order by v <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select v <-> $1 from by_uuid order by v <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select \"Key\", \"select\" from \"Odd \"\"name\"\"\" order by \"the vector\" <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select \"O\".\"Key\" from \"Odd \"\"name\"\"\" \"O\" order by \"O\".\"the vector\" <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id, part from parted order by v <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from parted where part = 1 order by v <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from parted_1 order by v <-> $1 limit 10",
        &[],
        Relay,
    ),
    // what is not claimed
    (
        "select id from plain order by v <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select id from only item order by embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select id from item order by embedding <-> $1 desc limit 10",
        &[],
        Relay,
    ),
    (
        "select id from item order by embedding <-> $1 limit 10 for update",
        &[],
        Relay,
    ),
    (
        "select id from item order by embedding <-> $1 limit 10 for share skip locked",
        &[],
        Relay,
    ),
    (
        "select id from item order by embedding <-> $1 fetch first 10 rows with ties",
        &[],
        Relay,
    ),
    (
        "select distinct category, embedding <-> $1 from item order by embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select id, count(*) over () from item order by embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select id, generate_series(1, 2) from item order by embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select count(*) from item group by embedding <-> $1 order by embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select count(*) from item order by count(*) limit 1",
        &[],
        Any,
    ),
    (
        "select i.id from item i join plain p on p.id = i.id order by i.embedding <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select i.id, p.id from plain p, item as i where p.id % 20 = i.category and p.id < 100 and i.category = $2 order by i.embedding <-> $1, p.id limit 10",
        &["3"],
        Relay,
    ),
    (
        "select item.id, max_id from item join (select max(id) as max_id from plain) m on true order by item.embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select i.id, p.id, i.embedding <-> $1 as distance from item i left join plain p on p.id = i.id + 1 where i.category in (1, 2) order by distance limit 30",
        &[],
        Nominate,
    ),
    (
        "select item.*, parted.part from public.item inner join parted using (id) where item.price > 100 order by item.embedding <-> $1 limit 12 offset 3",
        &[],
        Nominate,
    ),
    (
        "select i.id, p.id from plain p left join item i on i.id = p.id order by i.embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select i.id, p.id from plain p left join item i on i.id = p.id + 200 order by i.embedding <-> $1 limit 310",
        &[],
        Relay,
    ),
    (
        "select i.id from item i join by_bigint b on b.id = i.id * 10000000000 join plain p on p.id = i.id where i.id > 290 order by i.embedding <-> $1 limit 50",
        &[],
        Exact,
    ),
    (
        "select id from item i join plain p using (id) order by embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select id from item_view order by embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select id from item tablesample system (100) order by embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "select id from item where volatile_true(id) order by embedding <-> $1 limit 10",
        &[],
        Relay,
    ),
    (
        "(select id from item order by embedding <-> $1 limit 5) union all (select id from plain order by v <-> $1 limit 5)",
        &[],
        Any,
    ),
    (
        "with near as materialized (select id, embedding <-> $1 as d from item order by d limit 5) select * from near order by d + 0",
        &[],
        Any,
    ),
    (
        "select * from (select id, embedding <-> $1 as d from item order by embedding <-> $1 limit 5) s where d < 100 order by d",
        &[],
        Any,
    ),
    (
        "select id, embedding <-> $1 as d from item order by d limit 5",
        &[],
        Any,
    ),
    (
        "select id, embedding <-> $1 as d from item order by 2 limit 5",
        &[],
        Any,
    ),
    (
        "select id from item order by l2_distance(embedding, $1), id limit 5",
        &[],
        Any,
    ),
    (
        "select id from item order by (embedding <-> $1) + 1 limit 5",
        &[],
        Any,
    ),
    (
        "select id from item where id <> 1 order by embedding <-> (select embedding from item where id = 1) limit 5",
        &[],
        Any,
    ),
    (
        "select id from item where embedding <-> $1 < 0.5 order by id",
        &[],
        Any,
    ),
    ("select min(embedding <-> $1) from item", &[], Any),
    (
        "select p.id, near.id from plain p cross join lateral (select id from item order by item.embedding <-> p.v limit 2) near where p.id < 4 order by 1, 2",
        &[],
        Any,
    ),
    (
        "select category, min(embedding <-> $1) from item group by category order by 2 limit 5",
        &[],
        Any,
    ),
    ("values (1), (2)", &[], Any),
    // errors keep their text, their code and their position
    (
        "select missing from item order by embedding <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from item order by missing <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from missing order by embedding <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from item where category = 'x' order by embedding <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id, 1 / (id - id) from item order by embedding <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from item order by name <-> $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id from item order by embedding <-> $1 limit 10 limit 5",
        &[],
        Any,
    ),
    (
        "select id from item where group order by embedding <-> $1 limit 10",
        &[],
        Any,
    ),
];

/// The same where pgvector gives types and casts.
pub const VECTOR_CASES: &[Case] = &[
    (
        "select id from item order by embedding <-> $1::vector limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from item order by embedding <-> cast($1 as vector(4)) limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from item order by embedding operator(public.<->) $1 limit 10",
        &[],
        Any,
    ),
    (
        "select id, embedding::text, vector_dims(embedding) from item order by embedding <=> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from item order by embedding::halfvec(4) <-> $1 limit 10",
        &[],
        Nominate,
    ),
    (
        "select id from item order by cosine_distance(embedding, $1::vector), id limit 10",
        &[],
        Any,
    ),
    (
        "select id from item order by subvector(embedding, 1, 2) <-> subvector($1::vector, 1, 2), id limit 10",
        &[],
        Any,
    ),
];

/// Query vectors that are none, or lie outside; `{}` is replaced by the vector's text. Sent as literal and as parameter.
pub const QUERIES: &[&str] = &[
    "1,2",
    "1,2,3,4,5",
    "NaN,1,2,3",
    "1,Infinity,2,3",
    "1,2,x,4",
    "",
    "1e39,1,1,1",
    "1,,2,3",
    "0,0,0,0",
    "1e30,-1e30,1e30,1e-30",
];
