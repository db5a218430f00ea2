//! Conditions on arrays and documents, and their parameters.

use super::*;

#[test]
fn arrays_are_read_in_both_forms() {
    use Format::{Binary, Text};
    let mut array = Vec::new();
    for word in [1, 1, 23, 3, 1, 4, 7, -1, 4, 9] {
        array.put_i32(word);
    }
    let int4_array = 1007;
    let check = |types: &[u32], format, value: &[u8], expected: Filter| {
        assert_eq!(
            filter("i4 = any ($1)", types, &[(format, Some(value))]),
            expected,
            "{value:?}"
        );
    };
    check(&[], Binary, &array, ints(0, &[7, 9]));
    check(&[int4_array], Binary, &array, ints(0, &[7, 9]));
    check(&[int4_array], Text, b"{7,9}", ints(0, &[7, 9]));
    check(&[], Text, b" { 7 , 9 } ", ints(0, &[7, 9]));
    check(&[], Text, b"{}", ints(0, &[]));
    check(
        &[],
        Binary,
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23],
        ints(0, &[]),
    );
    check(&[1016], Binary, &array, Filter::default());
    for end in 0..array.len() {
        check(&[], Binary, &array[..end], Filter::default());
    }
    for malformed in [
        "{",
        "{1",
        "1}",
        "{1,}",
        "{,}",
        "{1}{2}",
        "{\"1}",
        "{\"1\" x}",
        "{a}",
    ] {
        check(&[], Text, malformed.as_bytes(), Filter::default());
    }
}

/// The filter with these conditions on a column, each the least and the greatest of what it allows.
fn parts(column: usize, all: &[&[Ordinal]]) -> Filter {
    let mut filter = Filter::default();
    for any in all {
        filter.add(column, any.iter().map(|token| (*token, *token)).collect());
    }
    filter
}

#[test]
fn conditions_on_arrays_are_read() {
    let (a, b) = (text_element("a"), text_element("b"));
    let same = |condition, all: &[&[Ordinal]]| {
        assert_eq!(filter(condition, &[], &[]), parts(10, all), "{condition}");
    };
    same("tags @> array['a', 'b']", &[&[a], &[b]]);
    same("tags @> '{a,\"b\"}'", &[&[a], &[b]]);
    same("tags @> '{a,b}'::text[]", &[&[a], &[b]]);
    same("array['a'] <@ tags", &[&[a]]);
    same("tags @> array['a', null]", &[&[]]);
    same("tags @> null", &[&[]]);
    same("tags && array['a', null, 'b']", &[&[a, b]]);
    same("tags && '{}'", &[&[]]);
    same("'a' = any (tags)", &[&[a]]);
    same("null = any (tags)", &[&[]]);
    same("tags = '{a,NULL,b}'", &[&[a], &[b]]);
    for nothing in [
        "tags @> '{}'",
        "tags = '{}'",
        "tags @> '{{a},{b}}'",
        "tags @> array['a'::uuid]",
        "tags @> array[1]::text[]",
        "tags @> '[\"a\"]'::jsonb",
        "tags = any ('{}')",
        "'a' < any (tags)",
        "tags -> 'a' = 'b'",
    ] {
        assert!(filter(nothing, &[], &[]).is_empty(), "{nothing}");
    }
    let element = |number| (Ordinal::of_int(number), Ordinal::of_int(number));
    let mut greater = Filter::default();
    greater.add(9, vec![(element(6).0, Ordinal::GREATEST)]);
    assert_eq!(filter("5 < any (ints)", &[], &[]), greater);
    let mut both = Filter::default();
    both.add(9, vec![element(1)]);
    both.add(9, vec![element(2)]);
    assert_eq!(filter("ints @> array[1, 2]", &[], &[]), both);
    // of any length, as many as are used
    let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let many = filter(&format!("ints @> '{{{}}}'", many.join(",")), &[], &[]);
    assert_eq!(many.columns().count(), MAX_PARTS);
}

#[test]
fn parameters_of_arrays_and_documents_are_read() {
    let (a, b) = (text_element("a"), text_element("b"));
    let head = [1, 0, 25, 2, 1, 1].into_iter().flat_map(i32::to_be_bytes);
    let binary: Vec<u8> = head
        .chain(*b"a")
        .chain(1_i32.to_be_bytes())
        .chain(*b"b")
        .collect();
    let check = |condition, declared: u32, format, value: Option<&[u8]>, expected: Filter| {
        let read = filter(condition, &[declared], &[(format, value)]);
        assert_eq!(read, expected, "{condition} {declared} {format:?}");
    };
    for declared in [0, 1009] {
        check(
            "tags @> $1",
            declared,
            Format::Text,
            Some(b"{a,b}"),
            parts(10, &[&[a], &[b]]),
        );
        check(
            "tags @> $1",
            declared,
            Format::Binary,
            Some(&binary),
            parts(10, &[&[a], &[b]]),
        );
        check(
            "tags && $1::text[]",
            declared,
            Format::Binary,
            Some(&binary),
            parts(10, &[&[a, b]]),
        );
        check(
            "tags && $1",
            declared,
            Format::Text,
            None,
            parts(10, &[&[]]),
        );
    }
    check(
        "tags @> array[$1]",
        TEXT,
        Format::Binary,
        Some(b"a"),
        parts(10, &[&[a]]),
    );
    check(
        "tags @> array[$1]",
        INT4,
        Format::Binary,
        Some(b"\0\0\0\x01"),
        Filter::default(),
    );
    check(
        "$1 = any (tags)",
        0,
        Format::Text,
        Some(b"a"),
        parts(10, &[&[a]]),
    );
    check(
        "tags @> $1",
        1007,
        Format::Text,
        Some(b"{1}"),
        Filter::default(),
    );
    let lang = JsonPath::ROOT.contains(r#"{"lang": "en"}"#).unwrap();
    let (text, binary) = (br#"{"lang":"en"}"#, b"\x01{\"lang\" : \"en\"}");
    for declared in [0, 3802] {
        check(
            "meta @> $1",
            declared,
            Format::Text,
            Some(text),
            parts(11, &[&lang]),
        );
        check(
            "meta @> $1",
            declared,
            Format::Binary,
            Some(binary),
            parts(11, &[&lang]),
        );
        check(
            "meta @> $1::jsonb",
            declared,
            Format::Binary,
            Some(binary),
            parts(11, &[&lang]),
        );
    }
    for declared in [114, TEXT, VARCHAR] {
        check(
            "meta @> $1::jsonb",
            declared,
            Format::Text,
            Some(text),
            parts(11, &[&lang]),
        );
        check(
            "meta @> $1::jsonb",
            declared,
            Format::Binary,
            Some(text),
            parts(11, &[&lang]),
        );
        check(
            "meta @> $1",
            declared,
            Format::Text,
            Some(text),
            Filter::default(),
        );
    }
    check(
        "meta @> $1",
        3802,
        Format::Binary,
        Some(b"\x02{}"),
        Filter::default(),
    );
    check(
        "meta @> $1 and meta = $1",
        0,
        Format::Text,
        Some(text),
        Filter::default(),
    );
    let en = JsonPath::ROOT.key("lang").has_text("en").unwrap();
    check(
        "meta ->> 'lang' = $1",
        0,
        Format::Text,
        Some(b"en"),
        parts(11, &[&en]),
    );
    check(
        "meta ->> $1 = 'en'",
        TEXT,
        Format::Binary,
        Some(b"lang"),
        parts(11, &[&en]),
    );
    check(
        "meta ->> $1 = 'en'",
        INT4,
        Format::Text,
        Some(b"0"),
        Filter::default(),
    );
}

#[test]
fn conditions_on_documents_are_read() {
    let root = JsonPath::ROOT;
    let same = |condition, all: &[&[Ordinal]]| {
        assert_eq!(filter(condition, &[], &[]), parts(11, all), "{condition}");
    };
    let text = |path: JsonPath, text| path.has_text(text).unwrap();
    let (a, ab) = (root.key("a"), root.key("a").key("b"));
    same("meta ->> 'a' = 'x'", &[&text(a, "x")]);
    same(
        "meta ->> 'a' in ('x', '5')",
        &[&[text(a, "x"), text(a, "5")].concat()],
    );
    same("meta ->> 'a' = any ('{x,NULL}')", &[&text(a, "x")]);
    same("meta -> 'a' ->> 'b' = 'x'", &[&text(ab, "x")]);
    same("meta -> 'a' -> -1 ->> 'b' = 'x'", &[&text(ab, "x")]);
    same("meta #>> '{a,b}' = 'x'", &[&text(ab, "x")]);
    same("meta #>> '{}' = 'x'", &[&text(root, "x")]);
    same("meta ->> 'a' = null", &[&[]]);
    let both = root.contains(r#"{"a": 1, "c": {}}"#).unwrap();
    assert_eq!(both.len(), 2);
    same(
        "meta @> '{\"a\": 1.0, \"c\": {}}'",
        &[&both[..1], &both[1..]],
    );
    same(
        "'{\"a\": 1, \"c\": {}}'::jsonb <@ meta",
        &[&both[..1], &both[1..]],
    );
    let one = a.contains("1").unwrap();
    same("meta -> 'a' = '1'", &[&one]);
    same("meta -> 'a' @> '[1]'", &[&one]);
    same("meta @> null", &[&[]]);
    same("meta ? 'a'", &[&root.has_key("a")]);
    same("meta ? null", &[&[]]);
    same("meta -> 'a' ? 'b'", &[&a.has_key("b")]);
    let keys = [root.has_key("a"), root.has_key("b")];
    same("meta ?| array['a', null, 'b']", &[&keys.concat()]);
    same("meta ?& '{a,b}'", &[&keys[0], &keys[1]]);
    for nothing in [
        "meta @> '{}'",
        "meta @> '[[]]'",
        "meta @> 'no document'",
        "meta @> '{}'::text[]",
        "meta @> array['a']",
        "meta ?& '{}'",
        "meta ->> 'a' = '{\"b\": 1}'",
        "meta ->> 'a' = '[1, 2]'",
        "meta ->> 'a' > 'x'",
        "meta ->> 'a' between 'x' and 'y'",
        "meta ->> 'a' = 5",
        "meta ->> null = 'x'",
        "meta #>> '{a,0}' = 'x'",
        "meta #>> '{a, -1}' = 'x'",
        "meta #>> '{a,NULL}' = 'x'",
        "meta #>> '{{a},{b}}' = 'x'",
        "meta -> 'a' < '1'",
        "meta = any ('{}')",
        "j ->> 'a' = 'x'",
        "t ->> 'a' = 'x'",
    ] {
        assert!(filter(nothing, &[], &[]).is_empty(), "{nothing}");
    }
}

#[test]
fn casts_of_parts_are_read() {
    let path = JsonPath::ROOT.key("n");
    let same = |condition, ranges: Vec<(Ordinal, Ordinal)>| {
        let mut expected = Filter::default();
        expected.add(11, ranges);
        assert_eq!(filter(condition, &[], &[]), expected, "{condition}");
    };
    let number = Ordinal::of_float;
    let least = |n: f64| (number(n), Ordinal::GREATEST);
    same(
        "(meta ->> 'n')::int >= 2020",
        path.has_number(least(2020.0), true, false),
    );
    same(
        "2020 <= (meta ->> 'n')::bigint",
        path.has_number(least(2020.0), true, false),
    );
    same(
        "(meta -> 'n')::int >= 2020",
        path.has_number(least(2020.0), false, true),
    );
    same(
        "(meta #>> '{n}')::numeric < 10.5",
        path.has_number((Ordinal::LEAST, number(10.5)), true, false),
    );
    same(
        "cast(meta ->> 'n' as float8) between 1 and 2",
        path.has_number((number(1.0), number(2.0)), true, false),
    );
    same("(meta ->> 'n')::int = null", vec![]);
    let points = |tokens: Vec<Ordinal>| tokens.into_iter().map(|token| (token, token)).collect();
    same("(meta -> 'n')::boolean", points(path.has_bool(true, false)));
    same(
        "not (meta ->> 'n')::bool",
        points(path.has_bool(false, true)),
    );
    same(
        "(meta ->> 'n')::bool is false",
        points(path.has_bool(false, true)),
    );
    same(
        "(meta ->> 'n')::bool <> false",
        points(path.has_bool(true, true)),
    );
    same(
        "(meta ->> 'n')::text = 'x'",
        points(path.has_text("x").unwrap()),
    );
    for condition in [
        "(meta ->> 'n')::int is null",
        "(meta ->> 'n')::bool is not true",
        "(meta ->> 'n')::real > 1",
        "(meta ->> 'n')::numeric(5, 2) > 1",
        "(meta ->> 'n')::date > '2024-01-01'",
        "(meta -> 'n')::text = 'x'",
        "i4::int8 = 5",
        "(meta ->> 'n')::int::text = '5'",
    ] {
        assert_eq!(
            filter(condition, &[], &[]),
            Filter::default(),
            "{condition}"
        );
    }
}
